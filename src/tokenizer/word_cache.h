#pragma once
#include <algorithm>
#include <bit>
#include <functional>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace kvant::tokenizer {

/// Remembers where in the output the ids of the words of one text stand, so that a word that returns is copied. Words
/// are views of that text. One word per slot, the latest.
class WordCache {
 public:
  explicit WordCache(std::size_t text_bytes)
      : slots_(std::bit_ceil(std::clamp<std::size_t>(text_bytes / 8, 1, std::size_t{1} << 14))) {}

  /// Appends the ids of `word` to out: a copy of earlier ones, or what encode() appends.
  template <class Encode>
  void append(std::string_view word, std::vector<Token>& out, const Encode& encode) {
    Slot& slot = slots_[std::hash<std::string_view>{}(word) & (slots_.size() - 1)];
    const std::size_t begin = out.size();
    if (slot.word == word) {
      for (std::size_t i = 0; i < slot.count; ++i) out.push_back(out[slot.begin + i]);
    } else {
      encode();
      slot = {word, begin, out.size() - begin};
    }
  }

 private:
  struct Slot {
    std::string_view word;
    std::size_t begin = 0, count = 0;
  };
  std::vector<Slot> slots_;
};

}  // namespace kvant::tokenizer
