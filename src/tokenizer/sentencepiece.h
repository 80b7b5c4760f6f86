#pragma once
#include <string_view>
#include <vector>

#include "tokenizer/text_encoder.h"
#include "tokenizer/vocab.h"

namespace kvant::tokenizer {

/// SentencePiece BPE as Llama 2 and Mistral use it: text starts as one symbol per character, and the neighbours that
/// join to the token of the highest score, leftmost first, are merged until none do. Characters that are no tokens
/// become byte tokens. O(n log n) in the length of the text.
class SentencePiece : public TextEncoder {
 public:
  /// Keeps a reference to vocab. space_prefix: whether a text gets a space before it. unknown: id for bytes
  /// without a byte token, or -1.
  SentencePiece(const Vocab& vocab, bool space_prefix, Token unknown);
  /// Throws invalid_argument when a byte has no token and there is no unknown token.
  void encode(std::string_view text, std::vector<Token>& out) const override;

 private:
  const Vocab* vocab_;
  bool space_prefix_;
  bool cuts_at_spaces_;  // no token has a space behind another character: words can be encoded one by one
  Token unknown_;
};

}  // namespace kvant::tokenizer
