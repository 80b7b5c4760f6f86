#include "tokenizer/normalize.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <array>
#include <cstdlib>

#include "base/random.h"

namespace kvant::tokenizer {
namespace {

std::string utf8(utf8proc_int32_t point) {
  std::array<utf8proc_uint8_t, 4> bytes{};
  const auto count = utf8proc_encode_char(point, bytes.data());
  return {reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(count)};
}

/// The library's own normalization of the whole text.
std::string expected_nfc(const std::string& text) {
  utf8proc_uint8_t* result = nullptr;
  const auto size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &result, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  std::string out(reinterpret_cast<const char*>(result), static_cast<std::size_t>(size));
  std::free(result);
  return out;
}

TEST(Nfc, Examples) {
  EXPECT_EQ(to_nfc(""), "");
  EXPECT_EQ(to_nfc("plain text"), "plain text");
  EXPECT_EQ(to_nfc("A\xcc\x8a"), "\xc3\x85");                     // A + ring
  EXPECT_EQ(to_nfc("xA\xcc\x8ay"), "x\xc3\x85y");                 // within text
  EXPECT_EQ(to_nfc("\xe2\x84\xab"), "\xc3\x85");                  // U+212B Angstrom sign
  EXPECT_EQ(to_nfc("\xe1\x84\x80\xe1\x85\xa1"), "\xea\xb0\x80");  // Hangul jamo to a syllable
  EXPECT_EQ(to_nfc("q\xcc\x87\xcc\xa3"), "q\xcc\xa3\xcc\x87");    // marks in canonical order
  EXPECT_EQ(to_nfc("\xe0\xa5\x98"), "\xe0\xa4\x95\xe0\xa4\xbc");  // composition exclusion
  EXPECT_EQ(to_nfc("\xcc\x81z"), "\xcc\x81z");                    // nothing to join
}

TEST(Nfc, EqualsTheLibraryOnRandomText) {
  // Ranges where composition, order and exclusions happen, and plain letters between them.
  constexpr std::array<std::array<utf8proc_int32_t, 2>, 9> kRanges{{{0x20, 0x7e},
                                                                    {0xa0, 0x24f},
                                                                    {0x300, 0x36f},
                                                                    {0x370, 0x400},
                                                                    {0x590, 0x6ff},
                                                                    {0x900, 0x9ff},
                                                                    {0x1100, 0x11ff},
                                                                    {0x1e00, 0x1fff},
                                                                    {0x1d150, 0x1d1ff}}};
  Random random(11);
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (int i = 0; i < 12; ++i) {
      const auto& [low, high] = kRanges[random.next() % kRanges.size()];
      text += utf8(low + static_cast<utf8proc_int32_t>(random.next() % static_cast<std::uint64_t>(high - low + 1)));
    }
    ASSERT_EQ(to_nfc(text), expected_nfc(text)) << text;
  }
}

TEST(Nfc, EqualsTheLibraryOnEveryCodePoint) {
  for (utf8proc_int32_t point = 1; point < 0x110000; ++point) {
    if (point >= 0xd800 && point < 0xe000) continue;
    const std::string text = "e" + utf8(point) + "\xcc\x81";
    ASSERT_EQ(to_nfc(text), expected_nfc(text)) << point;
  }
}

}  // namespace
}  // namespace kvant::tokenizer
