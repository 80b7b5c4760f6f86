#pragma once
#include <array>
#include <cstddef>
#include <string_view>
#include <vector>

#include "tokenizer/vocab.h"

namespace kvant::tokenizer {

/// Finds the special tokens that are written out in a text. Keeps a reference to the vocabulary.
class SpecialTokens {
 public:
  explicit SpecialTokens(const Vocab& vocab);

  struct Match {
    std::size_t begin;  ///< text.size() where there is none
    Token token;        ///< -1 where there is none
  };
  /// First special token in text at or after `from`; of several that start at one place the longest.
  /// User-defined tokens are always found, control and unknown ones only with parse_special.
  Match next(std::string_view text, std::size_t from, bool parse_special) const noexcept;
  /// Id of the special token with this text, or -1.
  Token find(std::string_view text) const noexcept;

 private:
  const Vocab* vocab_;
  TextIndex index_;
  std::array<std::vector<std::size_t>, 256> lengths_;  // of the tokens that start with a byte, longest first
};

}  // namespace kvant::tokenizer
