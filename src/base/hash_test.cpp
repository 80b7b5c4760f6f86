#include "base/hash.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace kvant {
namespace {

std::uint64_t hash_text(std::string_view text) { return hash_bytes(std::as_bytes(std::span(text))); }

TEST(Hash, IsXxh3) {
  // From the specification's test vector of the empty input with seed 0, and from xxhsum -H3.
  EXPECT_EQ(hash_text(""), 0x2d06800538d394c2u);
  EXPECT_EQ(hash_text("a"), 0xe6c632b61e964e1fu);
  EXPECT_EQ(hash_text("abc"), 0x78af5f94892f3950u);
}

TEST(Hash, PiecesCountAsOne) {
  const std::string text(1000, 'x');
  const auto bytes = std::as_bytes(std::span(text));
  for (const std::size_t cut : {0U, 1U, 300U, 1000U}) {
    const std::span<const std::byte> pieces[] = {bytes.first(cut), {}, bytes.subspan(cut)};
    EXPECT_EQ(hash_bytes(pieces), hash_bytes(bytes)) << cut;
  }
  EXPECT_EQ(hash_bytes(std::span<const std::span<const std::byte>>{}), hash_text(""));
}

}  // namespace
}  // namespace kvant
