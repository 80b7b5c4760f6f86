#include "gguf/blocks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/random.h"

namespace kvant::gguf {
namespace {

using Bytes = std::vector<std::uint8_t>;

std::vector<float> decoded(TensorType type, const Bytes& bytes) {
  const TypeInfo& of = info(type);
  std::vector<float> out(bytes.size() / of.block_bytes * of.block_values);
  dequantize(type, std::as_bytes(std::span(bytes)).data(), out);
  return out;
}

// A second reading of the layouts: fields by byte and bit position, 6-bit scales unpacked through 32-bit words. All
// products below are exact in double, so that the one rounding to f32 must agree with the decoder's to the bit.

struct BlockBytes {
  const std::uint8_t* at;

  int bits(int byte, int bit, int width) const { return at[byte] >> bit & ((1 << width) - 1); }
  double half(int byte) const {
    return static_cast<double>(to_float(F16{static_cast<std::uint16_t>(at[byte] | at[byte + 1] << 8)}));
  }
  std::uint32_t word(int byte) const {
    std::uint32_t w;
    std::memcpy(&w, at + byte, 4);
    return w;
  }
  int signed_byte(int byte) const { return at[byte] < 128 ? at[byte] : at[byte] - 256; }
};

int byte_of(const std::uint32_t* words, int i) { return static_cast<int>(words[i / 4] >> (i % 4 * 8) & 0xff); }

/// {scale, min} of sub-block s from the 12 bytes of q4_k and q5_k.
std::pair<int, int> scale_and_min(BlockBytes b, int first, int s) {
  const std::uint32_t u0 = b.word(first), u1 = b.word(first + 4), u2 = b.word(first + 8);
  const std::uint32_t scales[] = {u0 & 0x3f3f3f3f, (u2 & 0x0f0f0f0f) | (u0 >> 2 & 0x30303030)};
  const std::uint32_t mins[] = {u1 & 0x3f3f3f3f, (u2 >> 4 & 0x0f0f0f0f) | (u1 >> 2 & 0x30303030)};
  return {byte_of(scales, s), byte_of(mins, s)};
}

/// Scale of sub-block s from the 12 bytes of q3_k.
int scale_of_q3(BlockBytes b, int first, int s) {
  const std::uint32_t u0 = b.word(first), u1 = b.word(first + 4), high = b.word(first + 8);
  const std::uint32_t scales[] = {
      (u0 & 0x0f0f0f0f) | (high << 4 & 0x30303030), (u1 & 0x0f0f0f0f) | (high << 2 & 0x30303030),
      (u0 >> 4 & 0x0f0f0f0f) | (high & 0x30303030), (u1 >> 4 & 0x0f0f0f0f) | (high >> 2 & 0x30303030)};
  return byte_of(scales, s) - 32;
}

/// Value v of a block of 32.
double legacy_value(TensorType type, BlockBytes b, int v) {
  const int nibble_bit = v < 16 ? 0 : 4;
  switch (type) {
    case TensorType::q4_0:
      return b.half(0) * (b.bits(2 + v % 16, nibble_bit, 4) - 8);
    case TensorType::q4_1:
      return b.half(0) * b.bits(4 + v % 16, nibble_bit, 4) + b.half(2);
    case TensorType::q5_0:
      return b.half(0) * (b.bits(6 + v % 16, nibble_bit, 4) + 16 * b.bits(2 + v / 8, v % 8, 1) - 16);
    case TensorType::q5_1:
      return b.half(0) * (b.bits(8 + v % 16, nibble_bit, 4) + 16 * b.bits(4 + v / 8, v % 8, 1)) + b.half(2);
    case TensorType::q8_0:
      return b.half(0) * b.signed_byte(2 + v);
    case TensorType::iq4_nl:
      return b.half(0) * kIq4Levels[b.bits(2 + v % 16, nibble_bit, 4)];
    default:
      ADD_FAILURE();
      return 0;
  }
}

/// Value v of a superblock.
double superblock_value(TensorType type, BlockBytes b, int v) {
  const int lane = v & 31, half = v >> 7, quarter = v >> 5 & 3, pair = v >> 6, upper = v >> 5 & 1;
  switch (type) {
    case TensorType::q2_k:
      return b.half(80) * b.bits(v / 16, 0, 4) * b.bits(16 + 32 * half + lane, 2 * quarter, 2) -
             b.half(82) * b.bits(v / 16, 4, 4);
    case TensorType::q3_k: {
      const int low = b.bits(32 + 32 * half + lane, 2 * quarter, 2);
      return b.half(108) * scale_of_q3(b, 96, v / 16) * (b.bits(lane, v / 32, 1) == 1 ? low : low - 4);
    }
    case TensorType::q4_k: {
      const auto [scale, min] = scale_and_min(b, 4, v / 32);
      return b.half(0) * scale * b.bits(16 + 32 * pair + lane, 4 * upper, 4) - b.half(2) * min;
    }
    case TensorType::q5_k: {
      const auto [scale, min] = scale_and_min(b, 4, v / 32);
      const int q = b.bits(48 + 32 * pair + lane, 4 * upper, 4) + 16 * b.bits(16 + lane, v / 32, 1);
      return b.half(0) * scale * q - b.half(2) * min;
    }
    case TensorType::q6_k: {
      const int low = b.bits(64 * half + 32 * (quarter & 1) + lane, quarter < 2 ? 0 : 4, 4);
      const int high = b.bits(128 + 32 * half + lane, 2 * quarter, 2);
      return b.half(208) * b.signed_byte(192 + v / 16) * (16 * high + low - 32);
    }
    case TensorType::iq4_xs: {
      const int s = v / 32;
      const int scale = b.bits(4 + s / 2, s % 2 == 0 ? 0 : 4, 4) + 16 * b.bits(2 + s / 4, s % 4 * 2, 2) - 32;
      return b.half(0) * scale * kIq4Levels[b.bits(8 + 16 * s + v % 16, lane < 16 ? 0 : 4, 4)];
    }
    default:
      ADD_FAILURE();
      return 0;
  }
}

/// Byte positions of a block's f16 fields.
std::vector<std::size_t> half_fields(TensorType type) {
  switch (type) {
    case TensorType::q4_1:
    case TensorType::q5_1:
    case TensorType::q4_k:
    case TensorType::q5_k:
      return {0, 2};
    case TensorType::q2_k:
      return {80, 82};
    case TensorType::q3_k:
      return {108};
    case TensorType::q6_k:
      return {208};
    default:
      return {0};
  }
}

class Blocks : public testing::TestWithParam<TensorType> {};

TEST_P(Blocks, RandomBlocksAgreeWithASecondReadingOfTheLayout) {
  const TensorType type = GetParam();
  const TypeInfo& of = info(type);
  Random random(static_cast<std::uint64_t>(type));
  for (int round = 0; round < 200; ++round) {
    Bytes bytes(of.block_bytes);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.next() >> 56);
    for (const std::size_t at : half_fields(type)) bytes[at + 1] &= 0xbf;  // finite: below 2
    const std::vector<float> values = decoded(type, bytes);
    for (int v = 0; v < static_cast<int>(of.block_values); ++v) {
      const BlockBytes b{bytes.data()};
      const double expected = of.block_values == kBlock ? legacy_value(type, b, v) : superblock_value(type, b, v);
      ASSERT_EQ(values[static_cast<std::size_t>(v)], static_cast<float>(expected)) << "value " << v;
    }
  }
}

TEST_P(Blocks, RowsAreBlocksInOrderAtAnyAlignment) {
  const TensorType type = GetParam();
  const TypeInfo& of = info(type);
  Random random(5);
  Bytes bytes(3 * of.block_bytes + 1);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random.next() >> 58);
  std::vector<float> row(3 * of.block_values), block(of.block_values);
  const std::byte* odd = std::as_bytes(std::span(bytes)).data() + 1;
  dequantize(type, odd, row);
  for (std::size_t i = 0; i < 3; ++i) {
    dequantize(type, odd + i * of.block_bytes, block);
    EXPECT_TRUE(std::equal(block.begin(), block.end(), row.begin() + static_cast<std::ptrdiff_t>(i * of.block_values)));
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, Blocks,
                         testing::Values(TensorType::q4_0, TensorType::q4_1, TensorType::q5_0, TensorType::q5_1,
                                         TensorType::q8_0, TensorType::q2_k, TensorType::q3_k, TensorType::q4_k,
                                         TensorType::q5_k, TensorType::q6_k, TensorType::iq4_nl, TensorType::iq4_xs),
                         [](const auto& test) { return std::string(gguf::info(test.param).name); });

/// A block of zeros with some bytes set: {position, byte}.
Bytes block(TensorType type, std::initializer_list<std::pair<std::size_t, int>> set) {
  Bytes bytes(info(type).block_bytes);
  for (const auto& [at, byte] : set) bytes[at] = static_cast<std::uint8_t>(byte);
  return bytes;
}

/// Expects values at some positions and `rest` at all others.
void expect_values(TensorType type, const Bytes& bytes, std::initializer_list<std::pair<std::size_t, float>> some,
                   float rest) {
  std::vector<float> expected(info(type).block_values, rest);
  for (const auto& [at, value] : some) expected[at] = value;
  EXPECT_EQ(decoded(type, bytes), expected) << info(type).name;
}

// Worked by hand. f16: 0x3c00 = 1, 0x3800 = 0.5, 0x4000 = 2, 0xbc00 = -1.

TEST(HandMadeBlock, Legacy) {
  // Codes 3 (value 0) and 15 (value 16); code 0 means -8, -16 or the least level.
  expect_values(TensorType::q4_0, block(TensorType::q4_0, {{1, 0x38}, {2, 0xf3}}), {{0, -2.5f}, {16, 3.5f}}, -4.0f);
  expect_values(TensorType::q4_1, block(TensorType::q4_1, {{1, 0x38}, {3, 0xbc}, {19, 0xf3}}), {{15, 0.5f}, {31, 6.5f}},
                -1.0f);
  // Fifth bits of values 0 and 31.
  expect_values(TensorType::q5_0, block(TensorType::q5_0, {{1, 0x3c}, {2, 0x01}, {5, 0x80}, {6, 0x03}, {21, 0xf0}}),
                {{0, 3.0f}, {31, 15.0f}}, -16.0f);
  expect_values(TensorType::q5_1, block(TensorType::q5_1, {{1, 0x3c}, {3, 0x40}, {4, 0x02}, {6, 0x01}, {9, 0x13}}),
                {{1, 21.0f}, {16, 18.0f}, {17, 3.0f}}, 2.0f);
  expect_values(TensorType::q8_0, block(TensorType::q8_0, {{1, 0x40}, {2, 0x80}, {33, 0x7f}}),
                {{0, -256.0f}, {31, 254.0f}}, 0.0f);
  expect_values(TensorType::iq4_nl, block(TensorType::iq4_nl, {{1, 0x3c}, {2, 0x8f}}), {{0, 113.0f}, {16, 1.0f}},
                -127.0f);
}

TEST(HandMadeBlock, Superblocks) {
  // q2_k: sub-block 2 (values 32-47) scale 3, min 0; 9 (144-159) scale 15, min 2. d = 1, dmin = 2.
  // Value 32 lies at bit 2 of byte 0 of qs, value 144 at bit 0 of byte 48.
  {
    const Bytes bytes = block(TensorType::q2_k, {{2, 0x03}, {9, 0x2f}, {16, 0x08}, {64, 0x01}, {81, 0x3c}, {83, 0x40}});
    std::vector<float> expected(256, 0.0f);
    for (std::size_t v = 144; v < 160; ++v) expected[v] = -4.0f;
    expected[32] = 6.0f;
    expected[144] = 11.0f;  // 15 * 1 - 4
    EXPECT_EQ(decoded(TensorType::q2_k, bytes), expected);
  }
  // q3_k: all scales are -32 but sub-block 1 (low nibble 1, high bits 2: 33, so 1). Value 16: q = 2 + 4 - 4.
  {
    const Bytes bytes = block(TensorType::q3_k, {{16, 0x01}, {48, 0x02}, {97, 0x01}, {105, 0x02}, {109, 0x3c}});
    std::vector<float> expected(256, 128.0f);
    for (std::size_t v = 16; v < 32; ++v) expected[v] = -4.0f;
    expected[16] = 2.0f;
    EXPECT_EQ(decoded(TensorType::q3_k, bytes), expected);
  }
  // q4_k: sub-block 0 scale 5, min 1; sub-block 7 scale 0x23 (low nibble of byte 11, top bits of byte 3), min 0x12.
  {
    const Bytes bytes =
        block(TensorType::q4_k,
              {{1, 0x3c}, {3, 0x3c}, {4, 5}, {7, 0x80}, {8, 1}, {11, 0x40}, {15, 0x23}, {16, 0x0f}, {143, 0x20}});
    std::vector<float> expected(256, 0.0f);
    for (std::size_t v = 0; v < 32; ++v) expected[v] = -1.0f;
    for (std::size_t v = 224; v < 256; ++v) expected[v] = -18.0f;
    expected[0] = 74.0f;          // 5 * 15 - 1
    expected[255] = 35 * 2 - 18;  // 52
    EXPECT_EQ(decoded(TensorType::q4_k, bytes), expected);
  }
  // q5_k: sub-block 1 scale 2, min 0; value 33 has nibble 4 and its fifth bit (bit 1 of qh[1]).
  expect_values(TensorType::q5_k, block(TensorType::q5_k, {{1, 0x3c}, {5, 2}, {17, 0x02}, {49, 0x40}}), {{33, 40.0f}},
                0.0f);
  // q6_k: sub-block 15 scale -1; value 255: low nibble 5 in the high half of ql[127], upper bits 3 of qh[63].
  {
    const Bytes bytes = block(TensorType::q6_k, {{127, 0x50}, {191, 0xc0}, {207, 0xff}, {209, 0x38}});
    std::vector<float> expected(256, 0.0f);
    for (std::size_t v = 240; v < 256; ++v) expected[v] = 16.0f;
    expected[255] = -10.5f;  // 0.5 * -1 * (53 - 32)
    EXPECT_EQ(decoded(TensorType::q6_k, bytes), expected);
  }
  // iq4_xs: all scales -32 but sub-block 1, 33 - 32; level 8 is 1, level 0 is -127. d = 1.
  {
    const Bytes bytes = block(TensorType::iq4_xs, {{1, 0x3c}, {2, 0x08}, {4, 0x10}, {24, 0x80}});
    std::vector<float> expected(256, -32.0f * -127.0f);
    for (std::size_t v = 32; v < 64; ++v) expected[v] = -127.0f;
    expected[48] = 1.0f;
    EXPECT_EQ(decoded(TensorType::iq4_xs, bytes), expected);
  }
}

TEST(Dequantize, PlainTypes) {
  EXPECT_EQ(decoded(TensorType::f32, {0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0}), (std::vector<float>{1, -2}));
  EXPECT_EQ(decoded(TensorType::f16, {0x00, 0x3c, 0x01, 0x00}), (std::vector<float>{1, 0x1p-24f}));
  EXPECT_EQ(decoded(TensorType::bf16, {0x80, 0x3f, 0x00, 0xc0}), (std::vector<float>{1, -2}));
}

TEST(Dequantize, RefusesTypesThatAreNoWeights) {
  for (const TypeInfo& type : all_types()) {
    if (is_weight_type(type.type)) continue;
    try {
      decoded(type.type, Bytes(8));
      FAIL() << type.name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      EXPECT_THAT(error.what(), testing::HasSubstr(std::string(type.name)));
    }
  }
}

TEST(Types, TableIsConsistent) {
  std::size_t weights = 0;
  for (const TypeInfo& type : all_types()) {
    EXPECT_EQ(&info(type.type), &type);
    EXPECT_EQ(row_bytes(type.type, 3 * type.block_values), 3 * type.block_bytes);
    weights += is_weight_type(type.type);
  }
  EXPECT_EQ(weights, 15u);
  for (const std::uint32_t unknown : {4u, 5u, 9u, 15u, 16u, 29u, 31u, 0xffffffffu})
    EXPECT_EQ(find_type(unknown), nullptr);
  EXPECT_DOUBLE_EQ(info(TensorType::q6_k).bits(), 6.5625);
  EXPECT_DOUBLE_EQ(info(TensorType::iq4_xs).bits(), 4.25);
}

}  // namespace
}  // namespace kvant::gguf
