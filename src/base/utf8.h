#pragma once
#include <cstddef>
#include <string_view>

namespace kvant {

/// Length in bytes (1 to 4) of the valid UTF-8 sequence that `text` starts with, or 0 when it starts with none
/// (empty, truncated, overlong, a surrogate, above U+10FFFF). Source: Unicode 15, table 3-7.
std::size_t utf8_sequence_length(std::string_view text) noexcept;

/// Whether all of `text` is well-formed UTF-8.
bool is_valid_utf8(std::string_view text) noexcept;

/// Length of the longest prefix of `text` that does not end inside a UTF-8 sequence which further bytes could complete.
/// Invalid bytes count as complete: they can never become valid.
std::size_t utf8_complete_prefix(std::string_view text) noexcept;

}  // namespace kvant
