#include "codec/page_layout.h"

#include <gmock/gmock.h>

#include <bit>
#include <cstring>
#include <vector>

#include "base/random.h"

namespace kvant::codec {
namespace {

using testing::ElementsAre;

constexpr PageSide kSides[] = {PageSide::key, PageSide::value};
constexpr std::size_t kDims[] = {8, 16, 32, 64, 80, 96, 128, 256};

// Sizes are known to the compiler: 8 D bits + 64 scales.
static_assert(PageLayout(PageSide::key, 128, 4, 1, ScaleFormat::f16).bytes() == 8 * 128 * 4 + 128);
static_assert(PageLayout(PageSide::value, 80, 3, 2, ScaleFormat::log8).bytes() == 8 * 96 * 3 + 2 * 64);
static_assert(PageLayout(PageSide::key, 128, 4, 1, ScaleFormat::f16).field(4, 5, 22) == PlaneField{2 * 64 + 5, 20});

std::uint32_t word_at(const std::vector<std::byte>& page, std::size_t offset) {
  std::uint32_t word = 0;
  std::memcpy(&word, page.data() + offset, 4);
  return word;
}

TEST(PageLayout, PlanesOfEachWidth) {
  const auto widths = [](int bits) {
    std::vector<int> result;
    int next_bit = 0;
    std::size_t offset = 0;
    const PageLayout layout(PageSide::key, 64, bits, 1, ScaleFormat::f16);
    for (const BitPlane& plane : layout.planes()) {
      EXPECT_EQ(plane.first_bit, next_bit);
      EXPECT_EQ(plane.offset, offset);
      result.push_back(plane.width);
      next_bit += plane.width;
      offset += 8 * 64 * static_cast<std::size_t>(plane.width);
    }
    EXPECT_EQ(next_bit, bits);
    EXPECT_EQ(offset, layout.code_bytes());
    return result;
  };
  EXPECT_THAT(widths(1), ElementsAre(1));
  EXPECT_THAT(widths(2), ElementsAre(2));
  EXPECT_THAT(widths(3), ElementsAre(2, 1));
  EXPECT_THAT(widths(4), ElementsAre(4));
  EXPECT_THAT(widths(5), ElementsAre(4, 1));
  EXPECT_THAT(widths(6), ElementsAre(4, 2));
  EXPECT_THAT(widths(7), ElementsAre(4, 2, 1));
  EXPECT_THAT(widths(8), ElementsAre(4, 4));
}

// Token 3 of a K page of 5 bits, all codes 0 but those of dims 0, 5, 6 and 63.
TEST(PageLayout, KeyExample) {
  const PageLayout layout(PageSide::key, 64, 5, 1, ScaleFormat::f16);
  std::vector<std::byte> page(layout.bytes());
  layout.set_code(page, 3, 0, 0b10001);
  layout.set_code(page, 3, 5, 0b00110);
  layout.set_code(page, 3, 6, 0b11111);
  layout.set_code(page, 3, 63, 0b10010);
  // Four-bit plane: word 3 has dims 0..7, dim 4 k + b at bit 8 b + 4 k; word 7 * 64 + 3 has dims 56..63.
  EXPECT_EQ(word_at(page, 4 * 3), 0x00f06001U);
  EXPECT_EQ(word_at(page, 4 * (7 * 64 + 3)), 0x20000000U);
  // One-bit plane, behind 8 * 64 * 4 bytes: word 3 has dims 0..31, dim 4 k + b at bit 8 b + k; dim 63 is 4 * 7 + 3.
  EXPECT_EQ(word_at(page, 2048 + 4 * 3), 0x00020001U);
  EXPECT_EQ(word_at(page, 2048 + 4 * (64 + 3)), 0x80000000U);
}

// Token 13 (octet 1, half 1, byte 1) of a V page of 7 bits.
TEST(PageLayout, ValueExample) {
  const PageLayout layout(PageSide::value, 64, 7, 1, ScaleFormat::f16);
  std::vector<std::byte> page(layout.bytes());
  layout.set_code(page, 13, 2, 0b0000101);
  layout.set_code(page, 13, 35, 0b1110110);
  // Four bits: word octet * 64 + dim, bits 8 b + 4 o.
  EXPECT_EQ(word_at(page, 4 * (64 + 2)), 0x5000U);
  EXPECT_EQ(word_at(page, 4 * (64 + 35)), 0x6000U);
  // Two bits, behind 2048 bytes: word octet * 32 + dim % 32, bits 8 b + 2 (2 c + o), c = 1.
  EXPECT_EQ(word_at(page, 2048 + 4 * (32 + 3)), 0b11U << (8 + 2 * 3));
  // One bit, behind 3072 bytes: word octet * 16 + dim % 16, bits 8 b + 2 c + o, c = 2.
  EXPECT_EQ(word_at(page, 3072 + 4 * (16 + 3)), 1U << (8 + 5));
}

TEST(PageLayout, EveryFieldBelongsToOneCode) {
  for (const PageSide side : kSides) {
    for (const std::size_t dims : kDims) {
      for (const int width : {1, 2, 4}) {
        const PageLayout layout(side, round_up(dims, kPageDimBlock), width, 1, ScaleFormat::f16);
        std::vector<std::uint32_t> owned(layout.code_bytes() / 4, 0);
        for (std::size_t token = 0; token < kPageTokens; ++token) {
          for (std::size_t dim = 0; dim < layout.dims(); ++dim) {
            const PlaneField at = layout.field(width, token, dim);
            ASSERT_LT(at.word, owned.size());
            ASSERT_EQ(at.shift % width, 0);
            const std::uint32_t mask = ((1U << width) - 1) << at.shift;
            ASSERT_EQ(owned[at.word] & mask, 0U) << "token " << token << ", dim " << dim;
            owned[at.word] |= mask;
          }
        }
        EXPECT_THAT(owned, testing::Each(0xffffffffU)) << "dims " << dims << ", width " << width;
      }
    }
  }
}

// A shift and a mask of one word give four neighbours in its bytes, the property that kernels rely on.
TEST(PageLayout, BytesOfAWordAreNeighbours) {
  const PageLayout keys(PageSide::key, 96, 8, 1, ScaleFormat::f16), values(PageSide::value, 96, 8, 1, ScaleFormat::f16);
  for (const int width : {1, 2, 4}) {
    for (std::size_t token = 0; token < kPageTokens; token += 4) {
      for (std::size_t dim = 0; dim < 96; dim += 4) {
        for (std::size_t b = 0; b < 4; ++b) {
          const int eight_b = static_cast<int>(8 * b);
          const PlaneField key = keys.field(width, token, dim), value = values.field(width, token, dim);
          EXPECT_EQ(keys.field(width, token, dim + b), (PlaneField{key.word, key.shift + eight_b}));
          EXPECT_EQ(keys.field(width, token + b, dim), (PlaneField{key.word + b, key.shift}));
          EXPECT_EQ(values.field(width, token + b, dim), (PlaneField{value.word, value.shift + eight_b}));
        }
      }
    }
  }
}

TEST(PageLayout, RoundTripOfWholePages) {
  Random random(11);
  for (const PageSide side : kSides) {
    for (const std::size_t dims : kDims) {
      for (int bits = 1; bits <= 8; ++bits) {
        for (const ScaleFormat format : {ScaleFormat::f16, ScaleFormat::log8}) {
          SCOPED_TRACE(testing::Message() << "dims " << dims << ", bits " << bits);
          const std::size_t groups = dims == 80 || dims == 96 ? 2 : 1;
          const PageLayout layout(side, dims, bits, groups, format);
          EXPECT_EQ(layout.bytes() % 64, 0U);
          std::vector<std::byte> page(layout.bytes(), std::byte{0xa5});  // writing must not depend on what was there
          std::vector<std::vector<std::uint8_t>> codes(kPageTokens, std::vector<std::uint8_t>(dims));
          std::vector<std::uint16_t> scales;
          for (std::size_t token = 0; token < kPageTokens; ++token) {
            for (auto& code : codes[token]) code = static_cast<std::uint8_t>(random.below(1U << bits));
            layout.set_codes(page, token, codes[token]);
            for (std::size_t group = 0; group < groups; ++group) {
              scales.push_back(static_cast<std::uint16_t>(random.below(format == ScaleFormat::f16 ? 65536 : 256)));
              layout.set_scale(page, token, group, scales.back());
            }
          }
          std::vector<std::uint8_t> read(dims);
          for (std::size_t token = 0; token < kPageTokens; ++token) {
            layout.codes(page, token, read);
            ASSERT_EQ(read, codes[token]) << token;
            for (std::size_t group = 0; group < groups; ++group) {
              ASSERT_EQ(layout.scale(page, token, group), scales[token * groups + group]);
            }
          }
        }
      }
    }
  }
}

/// On a page of random bits: nothing else changes.
TEST(PageLayout, AllCodesAtOnceAreTheSameAsOneByOne) {
  Random random(2);
  for (const PageSide side : kSides) {
    for (const std::size_t dims : kDims) {
      for (int bits = 1; bits <= 8; ++bits) {
        const PageLayout layout(side, dims, bits, 1, ScaleFormat::f16);
        std::vector<std::byte> together(layout.bytes());
        for (std::byte& b : together) b = static_cast<std::byte>(random.below(256));
        auto single = together;
        std::vector<std::uint8_t> codes(dims);
        for (const std::size_t token : {0U, 3U, 5U, 31U, 63U}) {
          for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random.below(1U << bits));
          layout.set_codes(together, token, codes);
          for (std::size_t dim = 0; dim < dims; ++dim) layout.set_code(single, token, dim, codes[dim]);
          ASSERT_EQ(together, single) << dims << ' ' << bits << ' ' << token;
        }
      }
    }
  }
}

TEST(PageLayout, PaddingStaysZero) {
  for (const PageSide side : kSides) {
    const PageLayout layout(side, 8, 3, 1, ScaleFormat::f16);
    std::vector<std::byte> page(layout.bytes());
    const std::vector<std::uint8_t> ones(8, 7);
    for (std::size_t token = 0; token < kPageTokens; ++token) layout.set_codes(page, token, ones);
    std::size_t set = 0;
    for (std::size_t i = 0; i < layout.code_bytes(); ++i) {
      set += static_cast<std::size_t>(std::popcount(std::to_integer<unsigned>(page[i])));
    }
    EXPECT_EQ(set, 64U * 8 * 3);
  }
}

TEST(PageLayout, RefusesWhatHasNoLayout) {
  EXPECT_THROW(PageLayout(PageSide::key, 64, 0, 1, ScaleFormat::f16), Error);
  EXPECT_THROW(PageLayout(PageSide::key, 64, 9, 1, ScaleFormat::f16), Error);
  EXPECT_THROW(PageLayout(PageSide::key, 0, 4, 1, ScaleFormat::f16), Error);
  EXPECT_THROW(PageLayout(PageSide::key, 4097, 4, 1, ScaleFormat::f16), Error);
  EXPECT_THROW(PageLayout(PageSide::key, 64, 4, 0, ScaleFormat::f16), Error);
  EXPECT_THROW(PageLayout(PageSide::key, 64, 4, 65, ScaleFormat::f16), Error);
}

}  // namespace
}  // namespace kvant::codec
