#pragma once
#include <string>

#include "tokenizer/test_vocab.h"
#include "tokenizer/tokenizer.h"

namespace kvant::eval::testing_data {

/// A tokenizer with one token for each byte, so that positions of tokens are those of the text; BOS is token 256.
inline tokenizer::Tokenizer byte_tokenizer(bool bos = false) {
  auto vocab = tokenizer::testing_data::TestVocab::all_bytes();
  vocab.add("<bos>", tokenizer::TokenType::control);
  vocab.extra.set("tokenizer.ggml.bos_token_id", std::uint32_t{256});
  vocab.extra.set("tokenizer.ggml.add_bos_token", bos);
  return tokenizer::Tokenizer::from(vocab.file());
}

}  // namespace kvant::eval::testing_data
