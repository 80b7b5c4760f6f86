#include "kernels/rope/rope.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numbers>

#include "base/error.h"
#include "base/random.h"

namespace kvant::kernels {
namespace {

RopeConfig qwen25() {
  RopeConfig c;
  c.dims = 128;
  c.base = 1e6;
  return c;
}

RopeConfig qwen25_yarn() {
  RopeConfig c = qwen25();
  c.scaling = RopeConfig::Scaling::yarn;
  c.factor = 4;
  c.original_context = 32768;
  return c;
}

TEST(Rope, PlainFrequencies) {
  const RopeFrequencies f = rope_frequencies(qwen25());
  ASSERT_EQ(f.theta.size(), 64u);
  EXPECT_EQ(f.magnitude, 1);
  EXPECT_EQ(f.theta[0], 1);
  EXPECT_NEAR(f.theta[32], 1e-3, 1e-18);                   // base^(-1/2)
  EXPECT_NEAR(f.theta[63], 1.2409377607517195e-6, 1e-20);  // 1e6^(-126/128)
  EXPECT_NEAR(f.theta[1], 0.80584218776148182, 1e-15);     // 1e6^(-1/64)
}

TEST(Rope, LinearScalingDividesPositions) {
  RopeConfig c = qwen25();
  c.scaling = RopeConfig::Scaling::linear;
  c.factor = 4;
  const RopeFrequencies f = rope_frequencies(c);
  for (std::size_t j = 0; j < 64; ++j) EXPECT_DOUBLE_EQ(f.theta[j], rope_frequencies(qwen25()).theta[j] / 4);
  EXPECT_EQ(f.magnitude, 1);
}

/// By hand: the pair of n turns over 32768 positions is 128 ln(32768 / (2 pi n)) / (2 ln 1e6), 23.595... for 32 turns
/// and 39.65... for 1, so the ramp runs from pair 23 to pair 40; the magnitude is 1 + 0.1 ln 4.
TEST(Rope, YarnOfQwen25) {
  const RopeFrequencies plain = rope_frequencies(qwen25());
  const RopeFrequencies f = rope_frequencies(qwen25_yarn());
  EXPECT_NEAR(f.magnitude, 1.1386294361119891, 1e-15);
  for (std::size_t j = 0; j <= 23; ++j) EXPECT_EQ(f.theta[j], plain.theta[j]) << j;
  for (std::size_t j = 40; j < 64; ++j) EXPECT_NEAR(f.theta[j] / plain.theta[j], 0.25, 1e-15) << j;
  EXPECT_NEAR(f.theta[24] / plain.theta[24], 1 - 0.75 / 17, 1e-14);
  EXPECT_NEAR(f.theta[31] / plain.theta[31], 1 - 0.75 * 8 / 17, 1e-14);
  EXPECT_NEAR(f.theta[39] / plain.theta[39], 1 - 0.75 * 16 / 17, 1e-14);
}

TEST(Rope, YarnAttentionFactorMultipliesTheMagnitude) {
  RopeConfig c = qwen25_yarn();
  c.attention_factor = 0.5;
  EXPECT_NEAR(rope_frequencies(c).magnitude, 0.5 * 1.1386294361119891, 1e-15);
}

TEST(Rope, FrequencyFactorsDivide) {
  RopeConfig c = qwen25();
  c.frequency_factors.assign(64, 1.0F);
  c.frequency_factors[63] = 8;
  const RopeFrequencies f = rope_frequencies(c);
  EXPECT_EQ(f.theta[5], rope_frequencies(qwen25()).theta[5]);
  EXPECT_DOUBLE_EQ(f.theta[63], rope_frequencies(qwen25()).theta[63] / 8);
}

TEST(Rope, AnglesMatchLongDouble) {
  const std::vector<std::size_t> positions{0, 1, 2, 511, 4095, 32768, 131071, 131072, 16777217, 2147483647};
  for (const RopeConfig& c : {qwen25(), qwen25_yarn()}) {
    const RopeFrequencies f = rope_frequencies(c);
    std::vector<float> angles(positions.size() * 128);
    rope_angles(f, positions, angles.data());
    for (std::size_t p = 0; p < positions.size(); ++p) {
      for (std::size_t j = 0; j < 64; ++j) {
        // The product of 31 and 53 bits takes more than the 64 of long double: reduce exactly in two parts.
        const auto position = static_cast<long double>(positions[p]);
        const long double turn = 2 * std::numbers::pi_v<long double>;
        const auto upper = static_cast<long double>(static_cast<float>(f.theta[j]));
        const long double lower = static_cast<long double>(f.theta[j]) - upper;
        const long double angle = std::remainder(position * upper, turn) + position * lower;
        const auto magnitude = static_cast<long double>(f.magnitude);
        // Half an ulp of a number up to 1.14, and 2^31 turns times the rounding of 2 pi in long double.
        const double tolerance = 0x1p-24 + 1e-9;
        EXPECT_NEAR(static_cast<double>(angles[(p * 64 + j) * 2]), static_cast<double>(magnitude * std::cos(angle)),
                    tolerance)
            << positions[p] << ' ' << j;
        EXPECT_NEAR(static_cast<double>(angles[(p * 64 + j) * 2 + 1]), static_cast<double>(magnitude * std::sin(angle)),
                    tolerance)
            << positions[p] << ' ' << j;
      }
    }
  }
}

TEST(Rope, RotatesPairsAndLeavesTheRest) {
  const float angles[] = {0.6F, 0.8F, 0, 1};
  float x[] = {1, 2, 3, 4, 5, 6};
  rope_apply(angles, 2, x);
  EXPECT_EQ(x[0], 1 * 0.6F - 3 * 0.8F);
  EXPECT_EQ(x[2], 1 * 0.8F + 3 * 0.6F);
  EXPECT_EQ(x[1], -4.0F);
  EXPECT_EQ(x[3], 2.0F);
  EXPECT_EQ(x[4], 5.0F);
  EXPECT_EQ(x[5], 6.0F);
}

/// The property that RoPE exists for: products depend on the distance of positions alone.
TEST(Rope, ProductsDependOnDistance) {
  const RopeFrequencies f = rope_frequencies(qwen25());
  Random random(1);
  std::vector<float> q(128), k(128);
  for (float& v : q) v = static_cast<float>(random.normal());
  for (float& v : k) v = static_cast<float>(random.normal());
  const auto product = [&](std::size_t p, std::size_t t) {
    std::vector<float> angles(2 * 128), a = q, b = k;
    const std::size_t positions[] = {p, t};
    rope_angles(f, positions, angles.data());
    rope_apply(angles.data(), 64, a.data());
    rope_apply(angles.data() + 128, 64, b.data());
    double sum = 0;
    for (std::size_t i = 0; i < 128; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return sum;
  };
  EXPECT_NEAR(product(17, 5), product(131017, 131005), 1e-5);
  EXPECT_GT(std::abs(product(17, 5) - product(17, 9)), 0.1);
}

TEST(Rope, WrongSettingsAreNamed) {
  const auto message = [](auto change) {
    RopeConfig c = qwen25_yarn();
    change(c);
    try {
      rope_frequencies(c);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  using testing::HasSubstr;
  EXPECT_THAT(message([](RopeConfig& c) { c.dims = 63; }), HasSubstr("63"));
  EXPECT_THAT(message([](RopeConfig& c) { c.base = 0; }), HasSubstr("base"));
  EXPECT_THAT(message([](RopeConfig& c) { c.factor = 0; }), HasSubstr("factor"));
  EXPECT_THAT(message([](RopeConfig& c) { c.original_context = 0; }), HasSubstr("original context"));
  EXPECT_THAT(message([](RopeConfig& c) { c.frequency_factors.assign(3, 1.0F); }), HasSubstr("expected 64"));
  EXPECT_EQ(message([](RopeConfig&) {}), "");
}

}  // namespace
}  // namespace kvant::kernels
