#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "gguf/blocks.h"

namespace kvant::gguf {
namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes encoded(TensorType type, const std::vector<float>& values) {
  Bytes out(row_bytes(type, values.size()));
  quantize(type, values, std::as_writable_bytes(std::span(out)).data());
  return out;
}

std::vector<float> round_trip(TensorType type, const std::vector<float>& values) {
  const Bytes bytes = encoded(type, values);
  std::vector<float> out(values.size());
  dequantize(type, std::as_bytes(std::span(bytes)).data(), out);
  return out;
}

std::vector<float> normals(std::size_t size) {
  Random random(7);
  std::vector<float> out(size);
  for (float& value : out) value = static_cast<float>(random.normal());
  return out;
}

constexpr TensorType kLegacy[] = {TensorType::q4_0, TensorType::q4_1, TensorType::q5_0, TensorType::q5_1,
                                  TensorType::q8_0};

/// FNV-1a, 64 bits.
std::uint64_t hash(const Bytes& bytes) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (const std::uint8_t byte : bytes) h = (h ^ byte) * 0x100000001b3u;
  return h;
}

// The hashes are those of the bytes that ggml's quantize_row_*_ref functions (commit d99724f2, compiled without
// contraction) make of the same 8192 values.
TEST(Quantize, BytesEqualGgmlsReference) {
  const std::vector<float> values = normals(8192);
  EXPECT_EQ(hash(encoded(TensorType::q4_0, values)), 0x8dd438956569cb91u);
  EXPECT_EQ(hash(encoded(TensorType::q4_1, values)), 0xaba380d6055db16au);
  EXPECT_EQ(hash(encoded(TensorType::q5_0, values)), 0x9d16d816ef23d4e9u);
  EXPECT_EQ(hash(encoded(TensorType::q5_1, values)), 0xae0c617e79a7b97bu);
  EXPECT_EQ(hash(encoded(TensorType::q8_0, values)), 0x7b2455e41fe3834cu);
}

TEST(Quantize, CodesWorkedByHand) {
  std::vector<float> x(32, 0.0f);
  x[0] = 254.0f;  // d = 2
  x[1] = 1.0f;    // 0.5 rounds away from zero
  x[2] = -1.0f;
  x[31] = -5.1f;  // -2.55
  const Bytes q8 = encoded(TensorType::q8_0, x);
  EXPECT_EQ(q8[1], 0x40);  // f16 2
  EXPECT_EQ((std::vector<int>{q8[2], q8[3], q8[4], q8[5], q8[33]}), (std::vector<int>{127, 1, 255, 0, 253}));

  std::fill(x.begin(), x.end(), 0.0f);
  x[0] = -4.0f;   // extreme: code 0, d = 0.5
  x[1] = 4.0f;    // 16 is clipped to 15
  x[16] = 0.25f;  // half a step rounds up: 9
  const Bytes q4 = encoded(TensorType::q4_0, x);
  EXPECT_EQ(q4[1], 0x38);
  EXPECT_EQ((std::vector<int>{q4[2], q4[3], q4[4]}), (std::vector<int>{0x90, 0x8f, 0x88}));

  for (std::size_t i = 0; i < 32; ++i) x[i] = 1.0f + 0.5f * static_cast<float>(i % 16);
  const Bytes q41 = encoded(TensorType::q4_1, x);  // min 1, d 0.5: codes are i % 16
  EXPECT_EQ(q41[1], 0x38);
  EXPECT_EQ(q41[3], 0x3c);
  for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(q41[4 + i], i * 0x11) << i;

  for (std::size_t i = 0; i < 32; ++i) x[i] = static_cast<float>(i) - 16.0f;
  for (const TensorType type : {TensorType::q5_0, TensorType::q5_1}) {  // d = 1: codes are i
    const Bytes q5 = encoded(type, x);
    const std::size_t qh = type == TensorType::q5_0 ? 2 : 4;
    EXPECT_EQ((std::vector<int>{q5[qh], q5[qh + 1], q5[qh + 2], q5[qh + 3]}), (std::vector<int>{0, 0, 255, 255}));
    for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(q5[qh + 4 + i], i * 0x11) << i;
  }
}

TEST(Quantize, ErrorIsThatOfAUniformQuantizer) {
  // q4_1, q5_1 and q8_0 reach all values with steps of d: |error| <= d / 2, and d^2 / 12 in the mean if values spread
  // over many steps. Rounding d to f16 adds at most codes * d * 2^-11, rounding m at most |m| * 2^-11.
  constexpr std::size_t kBlocks = 4000;
  const std::vector<float> x = normals(kBlocks * kBlock);
  struct Case {
    TensorType type;
    double steps;
    bool symmetric;
  };
  for (const Case& c :
       {Case{TensorType::q4_1, 15, false}, Case{TensorType::q5_1, 31, false}, Case{TensorType::q8_0, 127, true}}) {
    const std::vector<float> y = round_trip(c.type, x);
    double squares = 0, expected = 0;
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const auto [low, high] = std::minmax_element(x.begin() + static_cast<std::ptrdiff_t>(b * kBlock),
                                                   x.begin() + static_cast<std::ptrdiff_t>((b + 1) * kBlock));
      const double largest = std::max(std::abs(static_cast<double>(*low)), std::abs(static_cast<double>(*high)));
      const double d = (c.symmetric ? largest : static_cast<double>(*high) - static_cast<double>(*low)) / c.steps;
      for (std::size_t i = b * kBlock; i < (b + 1) * kBlock; ++i) {
        const double error = static_cast<double>(y[i]) - static_cast<double>(x[i]);
        ASSERT_LE(std::abs(error), d * (0.5 + c.steps * 0x1p-11) + largest * 0x1p-11) << info(c.type).name;
        squares += error * error;
        expected += d * d / 12;
      }
    }
    // Two of 32 values (one in q8_0) lie on a level and add nothing; f16 adds up to (127 * 2^-11)^2 / 3 of d^2 / 12.
    EXPECT_LT(squares / expected, 1.03) << info(c.type).name;
    EXPECT_GT(squares / expected, 0.90) << info(c.type).name;
  }
}

TEST(Quantize, PlainTypesRoundToNearest) {
  EXPECT_EQ(encoded(TensorType::f32, {1.0f}), (Bytes{0, 0, 0x80, 0x3f}));
  EXPECT_EQ(encoded(TensorType::f16, {1.0f, 65520.0f}), (Bytes{0x00, 0x3c, 0x00, 0x7c}));
  EXPECT_EQ(encoded(TensorType::bf16, {1.0f, 1.00390625f * 1.5f}), (Bytes{0x80, 0x3f, 0xc1, 0x3f}));
}

TEST(Quantize, ZeroAndTinyBlocksDecodeToZero) {
  for (const TensorType type : kLegacy) {
    EXPECT_EQ(round_trip(type, std::vector<float>(32, 0.0f)), std::vector<float>(32, 0.0f)) << info(type).name;
    // 1 / d overflows: no finite code, but the scale is 0 in f16.
    for (const float y : round_trip(type, std::vector<float>(32, -1e-44f))) EXPECT_EQ(y, 0.0f) << info(type).name;
  }
}

TEST(Quantize, NonFiniteInputIsDefined) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float big = std::numeric_limits<float>::max();
  for (const TensorType type : kLegacy) {
    for (const float odd : {inf, -inf, nan, big, -big}) {
      std::vector<float> x(64, 1.0f);
      x[5] = odd;
      x[6] = -odd;
      const std::vector<float> y = round_trip(type, x);
      // The second block is not touched by what is in the first.
      EXPECT_TRUE(std::all_of(y.begin() + 32, y.end(), [](float v) { return std::abs(v - 1.0f) <= 0x1p-11f; }))
          << info(type).name;
      round_trip(type, std::vector<float>(32, odd));
    }
    // NaNs do not enter the scale: the other values come through.
    std::vector<float> x(32, 1.0f);
    x[5] = nan;
    x[6] = 0.0f;
    const std::vector<float> y = round_trip(type, x);
    EXPECT_NEAR(y[0], 1.0f, 0x1p-11f) << info(type).name;  // d in f16
    EXPECT_EQ(y[6], 0.0f) << info(type).name;
  }
}

TEST(Quantize, RefusesOtherTypes) {
  for (const TypeInfo& type : all_types()) {
    const bool can = std::find(std::begin(kLegacy), std::end(kLegacy), type.type) != std::end(kLegacy) ||
                     type.type == TensorType::f32 || type.type == TensorType::f16 || type.type == TensorType::bf16;
    if (can) continue;
    try {
      encoded(type.type, std::vector<float>(256, 1.0f));
      FAIL() << type.name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported);
      EXPECT_NE(std::string(error.what()).find(type.name), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace kvant::gguf
