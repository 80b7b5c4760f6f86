#include "base/utf8.h"

#include <algorithm>
#include <cstdint>

namespace kvant {
namespace {

/// Number of bytes that lead byte `b` announces (0 when no sequence starts with it) and the range of its second byte.
struct Lead {
  std::size_t length;
  std::uint8_t low, high;
};

Lead lead_of(std::uint8_t b) noexcept {
  if (b < 0x80) return {1, 0, 0};
  if (b < 0xc2) return {0, 0, 0};
  if (b < 0xe0) return {2, 0x80, 0xbf};
  if (b == 0xe0) return {3, 0xa0, 0xbf};
  if (b == 0xed) return {3, 0x80, 0x9f};
  if (b < 0xf0) return {3, 0x80, 0xbf};
  if (b == 0xf0) return {4, 0x90, 0xbf};
  if (b < 0xf4) return {4, 0x80, 0xbf};
  if (b == 0xf4) return {4, 0x80, 0x8f};
  return {0, 0, 0};
}

/// Number of bytes at the start of `text` that fit a sequence led by its first byte.
std::size_t matching_bytes(std::string_view text, const Lead& lead) noexcept {
  std::size_t n = 1;
  while (n < std::min(lead.length, text.size())) {
    const auto b = static_cast<std::uint8_t>(text[n]);
    const std::uint8_t low = n == 1 ? lead.low : 0x80;
    const std::uint8_t high = n == 1 ? lead.high : 0xbf;
    if (b < low || b > high) break;
    ++n;
  }
  return n;
}

}  // namespace

std::size_t utf8_sequence_length(std::string_view text) noexcept {
  if (text.empty()) return 0;
  const Lead lead = lead_of(static_cast<std::uint8_t>(text[0]));
  if (lead.length == 0 || matching_bytes(text, lead) != lead.length) return 0;
  return lead.length;
}

bool is_valid_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const std::size_t n = utf8_sequence_length(text);
    if (n == 0) return false;
    text.remove_prefix(n);
  }
  return true;
}

std::size_t utf8_complete_prefix(std::string_view text) noexcept {
  const std::size_t first = text.size() - std::min<std::size_t>(3, text.size());
  for (std::size_t at = first; at < text.size(); ++at) {
    const Lead lead = lead_of(static_cast<std::uint8_t>(text[at]));
    const std::string_view rest = text.substr(at);
    if (lead.length > rest.size() && matching_bytes(rest, lead) == rest.size()) return at;
  }
  return text.size();
}

}  // namespace kvant
