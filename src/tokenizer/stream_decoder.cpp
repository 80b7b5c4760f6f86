#include <algorithm>

#include "base/utf8.h"
#include "tokenizer/tokenizer.h"

namespace kvant::tokenizer {
namespace {

/// Appends bytes to out; each maximal run of a sequence that is cut short, and each other invalid byte, as U+FFFD
/// (Unicode 15, section 3.9, "substitution of maximal subparts").
void append_repaired(std::string_view bytes, std::string& out) {
  while (!bytes.empty()) {
    std::size_t length = utf8_sequence_length(bytes);
    if (length > 0) {
      out += bytes.substr(0, length);
    } else {
      length = std::min<std::size_t>(bytes.size(), 3);
      while (length > 1 && utf8_complete_prefix(bytes.substr(0, length)) != 0) --length;
      out += "\xef\xbf\xbd";
    }
    bytes.remove_prefix(length);
  }
}

}  // namespace

std::string StreamDecoder::push(Token token) {
  std::string_view bytes = tokenizer_->piece(token);
  const bool special = tokenizer_->is_special(token);
  if (first_ && !special && tokenizer_->space_prefix() && bytes.starts_with(' ')) bytes.remove_prefix(1);
  first_ = special;
  pending_ += bytes;
  const std::size_t complete = utf8_complete_prefix(pending_);
  std::string text;
  append_repaired(std::string_view(pending_).substr(0, complete), text);
  pending_.erase(0, complete);
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_repaired(pending_, text);
  pending_.clear();
  return text;
}

}  // namespace kvant::tokenizer
