#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gguf/reader.h"
#include "gguf/writer.h"
#include "tokenizer/vocab.h"

namespace kvant::tokenizer::testing_data {

/// A vocabulary in the making. Members may be changed before file().
struct TestVocab {
  std::string model = "gpt2", pre = "qwen2";
  std::vector<std::string> tokens;
  std::vector<std::int32_t> types;
  std::vector<float> scores;
  std::vector<std::string> merges;
  gguf::Writer extra;  // more metadata, set before file()

  void add(std::string text, TokenType type = TokenType::normal, float score = 0) {
    tokens.push_back(std::move(text));
    types.push_back(static_cast<std::int32_t>(type));
    scores.push_back(score);
  }

  /// The GGUF file with this vocabulary, which keeps pointing into this object.
  gguf::File file() {
    gguf::Writer writer = extra;
    writer.set("tokenizer.ggml.model", std::string_view(model));
    if (!pre.empty()) writer.set("tokenizer.ggml.pre", std::string_view(pre));
    writer.set("tokenizer.ggml.tokens", tokens);
    if (!types.empty()) writer.set("tokenizer.ggml.token_type", types);
    if (!scores.empty()) writer.set("tokenizer.ggml.scores", scores);
    if (model == "gpt2") writer.set("tokenizer.ggml.merges", merges);
    bytes_ = writer.bytes();
    return gguf::File::parse(bytes_, "made-up.gguf");
  }

  /// The UTF-8 text of a byte in GPT-2's alphabet.
  static std::string spelled(std::uint8_t byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    unsigned point = byte;
    if (!printable) point = 256 + (byte <= 0x20 ? byte : byte <= 0xa0 ? byte - 0x7fu + 33 : 67u);
    if (point < 0x80) return {static_cast<char>(point)};
    return {static_cast<char>(0xc0 | point >> 6), static_cast<char>(0x80 | (point & 0x3f))};
  }

  /// All 256 bytes, without merges.
  static TestVocab all_bytes() {
    TestVocab vocab;
    for (int b = 0; b < 256; ++b) vocab.add(spelled(static_cast<std::uint8_t>(b)));
    return vocab;
  }
  /// Adds the merge of two texts in the byte-level alphabet and the token it makes.
  void merge(const std::string& left, const std::string& right) {
    merges.push_back(left + " " + right);
    add(left + right);
  }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace kvant::tokenizer::testing_data
