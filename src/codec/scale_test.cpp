#include "codec/scale.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "base/random.h"

namespace kvant::codec {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

TEST(Scale, EveryStoredFormRoundTrips) {
  for (int c = 0; c < 256; ++c) {
    const auto stored = static_cast<std::uint16_t>(c);
    EXPECT_EQ(encode_scale(ScaleFormat::log8, decode_scale(ScaleFormat::log8, stored)), stored);
  }
  for (int bits = 0; bits < 0x7c00; ++bits) {
    const auto stored = static_cast<std::uint16_t>(bits);
    EXPECT_EQ(encode_scale(ScaleFormat::f16, decode_scale(ScaleFormat::f16, stored)), stored);
  }
}

TEST(Scale, Log8IsEightStepsPerOctave) {
  EXPECT_EQ(decode_scale(ScaleFormat::log8, 0), 0.0F);
  EXPECT_EQ(decode_scale(ScaleFormat::log8, 128), 1.0F);
  EXPECT_EQ(decode_scale(ScaleFormat::log8, 136), 2.0F);
  EXPECT_EQ(decode_scale(ScaleFormat::log8, 8), 0x1p-15F);
  EXPECT_EQ(decode_scale(ScaleFormat::log8, 132), 0x1.6a09e6p0F);  // sqrt(2) rounded to float
  EXPECT_EQ(decode_scale(ScaleFormat::log8, 124), 0x1.6a09e6p-1F);
  for (int c = 1; c < 256; ++c) {
    const float value = decode_scale(ScaleFormat::log8, static_cast<std::uint16_t>(c));
    EXPECT_NEAR(value / std::exp2((c - 128) / 8.0), 1, 0x1p-24) << c;
  }
}

TEST(Scale, RelativeErrorIsBoundedAndReached) {
  Random random(7);
  double worst_log = 0, worst_f16 = 0;
  for (int i = 0; i < 100'000; ++i) {
    const float scale = static_cast<float>(std::exp2(29.9 * random.uniform() - 14));
    const auto error = [&](ScaleFormat format) {
      return std::abs(std::log2(decode_scale(format, encode_scale(format, scale)) / double{scale}));
    };
    worst_log = std::max(worst_log, error(ScaleFormat::log8));
    worst_f16 = std::max(worst_f16, error(ScaleFormat::f16));
  }
  EXPECT_LT(worst_log, 1.0 / 16 + 1e-6);  // half a step
  EXPECT_GT(worst_log, 0.99 / 16);
  EXPECT_LT(worst_f16, std::log2(1 + 0x1p-11) * 1.001);
  EXPECT_GT(worst_f16, std::log2(1 + 0x1p-11) * 0.95);
}

TEST(Scale, TiesGoToTheSmallerStep) {
  const float bound = static_cast<float>(std::exp2(0.5 / 8));
  EXPECT_EQ(encode_scale(ScaleFormat::log8, bound), 128);
  EXPECT_EQ(encode_scale(ScaleFormat::log8, std::nextafter(bound, kInfinity)), 129);
}

TEST(Scale, EndsOfTheRange) {
  EXPECT_EQ(encode_scale(ScaleFormat::f16, 65505), 0x7bff);
  EXPECT_EQ(encode_scale(ScaleFormat::f16, 1e30F), 0x7bff);
  EXPECT_EQ(encode_scale(ScaleFormat::f16, 0), 0);
  EXPECT_EQ(encode_scale(ScaleFormat::f16, 0x1p-24F), 1);    // least subnormal
  EXPECT_EQ(encode_scale(ScaleFormat::f16, 0x1.8p-24F), 2);  // tie to even
  EXPECT_EQ(encode_scale(ScaleFormat::f16, 0x1p-25F), 0);    // tie to even
  EXPECT_EQ(encode_scale(ScaleFormat::f16, 0x1p-140F), 0);

  const float least = decode_scale(ScaleFormat::log8, 1);
  EXPECT_EQ(encode_scale(ScaleFormat::log8, 0), 0);
  EXPECT_EQ(encode_scale(ScaleFormat::log8, 0x1p-149F), 0);
  EXPECT_EQ(encode_scale(ScaleFormat::log8, least / 2), 0);
  EXPECT_EQ(encode_scale(ScaleFormat::log8, std::nextafter(least / 2, 1.0F)), 1);
  EXPECT_EQ(encode_scale(ScaleFormat::log8, 1e5F), 255);
  EXPECT_EQ(encode_scale(ScaleFormat::log8, std::numeric_limits<float>::max()), 255);
}

}  // namespace
}  // namespace kvant::codec
