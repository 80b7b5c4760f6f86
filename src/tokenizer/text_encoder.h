#pragma once
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace kvant::tokenizer {

/// The part of a tokenizer that depends on the kind of vocabulary: turns text without special tokens into ids.
class TextEncoder {
 public:
  virtual ~TextEncoder() = default;
  /// Appends the ids of `text`, which is valid UTF-8 and stands at the start or behind a special token.
  virtual void encode(std::string_view text, std::vector<Token>& out) const = 0;
};

}  // namespace kvant::tokenizer
