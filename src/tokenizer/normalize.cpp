#include "tokenizer/normalize.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "base/error.h"

namespace kvant::tokenizer {
namespace {

bool is_mark(utf8proc_int32_t point) { return utf8proc_get_property(point)->combining_class != 0; }

/// Canonical decomposition with combining marks in canonical order. utf8proc orders by exchanging neighbours, which
/// takes quadratic time on long runs of marks.
void decompose(std::string_view text, std::vector<utf8proc_int32_t>& points) {
  points.clear();
  std::array<utf8proc_int32_t, 32> parts{};  // a code point has at most 4 canonical parts
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (std::size_t at = 0; at < text.size();) {
    utf8proc_int32_t point = 0;
    at +=
        static_cast<std::size_t>(utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &point));
    int boundary = 0;
    const auto count = utf8proc_decompose_char(point, parts.data(), parts.size(), UTF8PROC_DECOMPOSE, &boundary);
    points.insert(points.end(), parts.begin(), parts.begin() + count);
  }
  const auto by_class = [](utf8proc_int32_t a, utf8proc_int32_t b) {
    return utf8proc_get_property(a)->combining_class < utf8proc_get_property(b)->combining_class;
  };
  for (auto run = points.begin(); run != points.end();) {
    run = std::find_if(run, points.end(), is_mark);
    const auto end = std::find_if_not(run, points.end(), is_mark);
    std::stable_sort(run, end, by_class);
    run = end;
  }
}

void append_composed(std::string_view text, std::vector<utf8proc_int32_t>& points, std::string& out) {
  decompose(text, points);
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  const auto count = utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()), options);
  KVANT_ASSERT(count >= 0);
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    std::array<utf8proc_uint8_t, 4> encoded{};
    const auto bytes = utf8proc_encode_char(points[static_cast<std::size_t>(i)], encoded.data());
    out.append(reinterpret_cast<const char*>(encoded.data()), static_cast<std::size_t>(bytes));
  }
}

}  // namespace

std::string to_nfc(std::string_view text) {
  // Code points below U+0300 are normal and never join what stands before them: a text falls into segments that start
  // at such a code point, and one without any others is normal as it is. Their bytes are all below 0xcc.
  const auto is_low = [](char c) { return static_cast<std::uint8_t>(c) < 0xcc; };
  const auto is_start = [&](char c) { return is_low(c) && (static_cast<std::uint8_t>(c) & 0xc0) != 0x80; };
  std::string out;
  out.reserve(text.size());
  std::vector<utf8proc_int32_t> points;
  std::size_t done = 0;
  for (;;) {
    const auto high = std::find_if_not(text.begin() + static_cast<std::ptrdiff_t>(done), text.end(), is_low);
    auto begin = static_cast<std::size_t>(high - text.begin());
    if (begin == text.size()) break;
    const auto end = static_cast<std::size_t>(std::find_if(high, text.end(), is_start) - text.begin());
    if (begin > done) {  // the character before may take up what follows
      do --begin;
      while (begin > done && !is_start(text[begin]));
    }
    out += text.substr(done, begin - done);
    append_composed(text.substr(begin, end - begin), points, out);
    done = end;
  }
  out += text.substr(done);
  return out;
}

}  // namespace kvant::tokenizer
