#include "codec/vector_codec.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "base/error.h"
#include "base/random.h"
#include "codec/codebook.h"

namespace kvant::codec {
namespace {

using testing::Each;
using testing::ElementsAre;

constexpr QuantizerKind kKinds[] = {QuantizerKind::lm, QuantizerKind::uni};
constexpr std::size_t kDimensions[] = {32, 64, 128};

int most_bits(QuantizerKind kind) { return kind == QuantizerKind::lm ? 7 : 8; }

double dot(std::span<const float> x, std::span<const double> y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) sum += double{x[i]} * y[i];
  return sum;
}

double normal_density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

/// Mean relative squared errors over random directions: with the scale that the codes were chosen for, and decoded.
struct Measured {
  double fixed = 0, decoded = 0;
};

Measured measure(const Quantizer& q, ScaleFormat format, std::size_t coordinates) {
  Random random(20260400 + q.dimension);
  Measured sum;
  std::vector<float> x(q.dimension);
  std::vector<double> decoded(q.dimension);
  std::vector<std::uint8_t> codes(q.dimension);
  std::uint16_t scale = 0;
  const std::size_t vectors = coordinates / q.dimension;
  for (std::size_t v = 0; v < vectors; ++v) {
    double norm2 = 0, peak = 0;
    for (float& value : x) {
      value = static_cast<float>(random.normal());
      norm2 += double{value} * value;
      peak = std::max(peak, std::abs(double{value}));
    }
    EXPECT_TRUE(encode_vector(q, format, x, codes, scale));
    decode_vector(q, format, codes, scale, decoded);
    const double unit = (q.kind == QuantizerKind::lm ? std::sqrt(norm2) : peak) / q.gain;
    double fixed_error = 0, error = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      fixed_error += std::pow(x[i] - unit * q.levels[codes[i]], 2);
      error += std::pow(x[i] - decoded[i], 2);
    }
    sum.fixed += fixed_error / norm2;
    sum.decoded += error / norm2;
  }
  return {sum.fixed / static_cast<double>(vectors), sum.decoded / static_cast<double>(vectors)};
}

/// What the one-byte scale adds to the distortion, relatively.
double added_by_log8(const Quantizer& q) {
  constexpr std::size_t kCoordinates = 100'000;
  return measure(q, ScaleFormat::log8, kCoordinates).decoded / measure(q, ScaleFormat::f16, kCoordinates).decoded - 1;
}

/// What a least-squares scale takes off the distortion of lm, to first order in 1/n. With coordinates of unit variance,
/// c the decoded one and e = x - c, it is E<e,c>^2 / (n <c,c>). The variance of <e,c> on the sphere is that of
/// independent coordinates less the part that their norm explains.
double least_squares_gain(const Quantizer& q) {
  const double n = static_cast<double>(q.dimension), unit = std::sqrt(n) / q.gain;
  constexpr double kStep = 1e-4;
  double cc = 0, eecc = 0, ecxx = 0, xxxx = 0;
  std::size_t code = q.levels.size() / 2;
  for (double x = kStep / 2; x * x < n; x += kStep) {
    while (code + 1 < q.levels.size() && x > unit * q.midpoints[code]) ++code;
    const double c = unit * q.levels[code], e = x - c, weight = std::pow(1 - x * x / n, (n - 3) / 2);
    cc += weight * c * c;
    eecc += weight * e * e * c * c;
    ecxx += weight * e * c * (x * x - 1);
    xxxx += weight * (x * x - 1) * (x * x - 1);
  }
  return (eecc - ecxx * ecxx / xxxx) / cc / n;
}

/// The distortion of uni with a scale from the peak alone, for normal coordinates; it is the same on the sphere, since
/// the error is proportional to the norm and independent of it. Given the peak m the other n - 1 coordinates are
/// independent with a normal density cut at m, and m has the density 2 n p(m) P(|x| < m)^(n-1).
double peak_scaled_distortion(const Quantizer& q) {
  const double n = static_cast<double>(q.dimension);
  constexpr double kPeakStep = 0.02;
  constexpr int kPoints = 4000;
  double sum = 0;
  for (double peak = kPeakStep / 2; peak < 8; peak += kPeakStep) {
    const double below = std::erf(peak / std::numbers::sqrt2);
    const double weight = kPeakStep * 2 * n * normal_density(peak) * std::pow(below, n - 1);
    if (weight < 1e-7) continue;
    const double unit = peak / q.gain, step = peak / kPoints;
    std::size_t code = q.levels.size() / 2;
    double inner = 0;
    for (double x = step / 2; x < peak; x += step) {
      while (code + 1 < q.levels.size() && x > unit * q.midpoints[code]) ++code;
      const double e = x - unit * q.levels[code];
      inner += 2 * step * normal_density(x) * e * e;
    }
    const double last = peak - unit * q.levels.back();
    sum += weight * ((n - 1) * inner / below + last * last);
  }
  return sum / n;
}

TEST(VectorCodec, LloydMaxDistortionIsTheTheorys) {
  for (const std::size_t n : kDimensions) {
    for (int bits = 1; bits <= 7; ++bits) {
      SCOPED_TRACE(testing::Message() << "dimension " << n << ", bits " << bits);
      const Quantizer q = make_quantizer(QuantizerKind::lm, n, bits);
      const double theory = byte_levels(solve_codebook(n, bits)).distortion;
      const Measured measured = measure(q, ScaleFormat::f16, 1'600'000);
      EXPECT_NEAR(measured.fixed / theory, 1, 0.01);
      EXPECT_NEAR(measured.decoded / (theory - least_squares_gain(q)), 1, 0.01);
      // The coarser scale costs little, because the codes are chosen for it.
      EXPECT_NEAR(added_by_log8(q), 0, bits <= 4 ? 0.025 : 0.09);
    }
  }
}

TEST(VectorCodec, UniformDistortionIsTheTheorys) {
  for (const std::size_t n : kDimensions) {
    for (int bits = 1; bits <= 8; ++bits) {
      SCOPED_TRACE(testing::Message() << "dimension " << n << ", bits " << bits);
      const Quantizer q = make_quantizer(QuantizerKind::uni, n, bits);
      const Measured measured = measure(q, ScaleFormat::f16, 400'000);
      EXPECT_NEAR(measured.fixed / peak_scaled_distortion(q), 1, 0.01);
      EXPECT_LT(measured.decoded, measured.fixed);
      EXPECT_GT(measured.decoded, measured.fixed * (1 - 5 / static_cast<double>(n)) * 0.9);
      EXPECT_TRUE(bits > 4 || std::abs(added_by_log8(q)) < 0.025);
    }
  }
}

TEST(VectorCodec, WhereEachKindIsBetter) {
  const auto distortion = [](QuantizerKind kind, std::size_t n, int bits) {
    return measure(make_quantizer(kind, n, bits), ScaleFormat::f16, 200'000).decoded;
  };
  EXPECT_LT(distortion(QuantizerKind::lm, 128, 4), 0.92 * distortion(QuantizerKind::uni, 128, 4));
  EXPECT_LT(distortion(QuantizerKind::uni, 32, 4), 0.96 * distortion(QuantizerKind::lm, 32, 4));
  EXPECT_LT(distortion(QuantizerKind::uni, 128, 7), 0.9 * distortion(QuantizerKind::lm, 128, 7));
}

TEST(VectorCodec, LevelsAreWholeAndMidpointsExact) {
  for (const QuantizerKind kind : kKinds) {
    for (int bits = 1; bits <= most_bits(kind); ++bits) {
      const Quantizer q = make_quantizer(kind, 64, bits);
      ASSERT_EQ(q.levels.size(), std::size_t{1} << bits);
      for (std::size_t i = 0; i < q.levels.size(); ++i) {
        EXPECT_EQ(q.levels[i], -q.levels[q.levels.size() - 1 - i]);
        if (i > 0) {
          ASSERT_LT(q.levels[i - 1], q.levels[i]);
          EXPECT_EQ(2 * q.midpoints[i - 1], q.levels[i - 1] + q.levels[i]);
        }
      }
      EXPECT_LE(q.levels.back(), bits == 8 ? 255 : 127);
      EXPECT_GE(q.levels.back(), 64);
    }
  }
  EXPECT_THAT(make_quantizer(QuantizerKind::uni, 64, 2).levels, ElementsAre(-96, -32, 32, 96));
}

TEST(VectorCodec, TreeSumAddsTheUpperHalfFirst) {
  std::vector<float> values{1e8F, 1, -1e8F, 1};
  EXPECT_EQ(tree_sum(values), 2);  // front to back it would be 1
  std::vector<float> one{3};
  EXPECT_EQ(tree_sum(one), 3);
}

TEST(VectorCodec, TiesGoToTheSmallerCode) {
  const Quantizer q = make_quantizer(QuantizerKind::uni, 8, 4);
  ASSERT_EQ(q.gain, 128);  // the outer cells end at the peak: midpoints are the multiples of 1/8
  const std::vector<float> x{1, -1, 0.5, -0.5, 0, std::nextafter(0.5F, 1.0F), 0.125, -0.875};
  std::vector<std::uint8_t> codes(8);
  std::uint16_t scale = 0;
  ASSERT_TRUE(encode_vector(q, ScaleFormat::f16, x, codes, scale));
  EXPECT_THAT(codes, ElementsAre(15, 0, 11, 3, 7, 12, 8, 0));
}

TEST(VectorCodec, TheProjectionIsRight) {
  Random random(5);
  for (const QuantizerKind kind : kKinds) {
    for (int bits = 1; bits <= most_bits(kind); ++bits) {
      const Quantizer q = make_quantizer(kind, 128, bits);
      std::vector<float> x(128);
      for (float& value : x) value = static_cast<float>(30 * random.normal());
      std::vector<std::uint8_t> codes(128);
      std::vector<double> decoded(128);
      std::uint16_t scale = 0;
      ASSERT_TRUE(encode_vector(q, ScaleFormat::f16, x, codes, scale));
      decode_vector(q, ScaleFormat::f16, codes, scale, decoded);
      double norm2 = 0;
      for (const double value : decoded) norm2 += value * value;
      EXPECT_NEAR(dot(x, decoded) / norm2, 1, 0x1p-11 + 128 * 0x1p-24);  // rounding of the scale, and of its sums
    }
  }
}

TEST(VectorCodec, ZeroAndTinyVectors) {
  for (const QuantizerKind kind : kKinds) {
    for (const ScaleFormat format : {ScaleFormat::f16, ScaleFormat::log8}) {
      const Quantizer q = make_quantizer(kind, 32, 3);
      for (const float value : {0.0F, -0.0F, 0x1p-149F, 0x1p-70F, 0x1p-50F}) {
        const std::vector<float> x(32, value);
        std::vector<std::uint8_t> codes(32, 99);
        std::uint16_t scale = 99;
        ASSERT_TRUE(encode_vector(q, format, x, codes, scale));
        EXPECT_EQ(scale, 0);
        EXPECT_THAT(codes, Each(value < 0x1p-60F ? 3 : testing::Matcher<int>(testing::Gt(3))));
        std::vector<double> decoded(32, 1);
        decode_vector(q, format, codes, scale, decoded);
        EXPECT_THAT(decoded, Each(0.0));
      }
    }
  }
}

TEST(VectorCodec, LargeVectorsFitTheScale) {
  Random random(9);
  for (const QuantizerKind kind : kKinds) {
    for (int bits = 2; bits <= most_bits(kind); ++bits) {
      for (const ScaleFormat format : {ScaleFormat::f16, ScaleFormat::log8}) {
        const Quantizer q = make_quantizer(kind, 128, bits);
        std::vector<float> x(128);
        for (float& value : x) value = static_cast<float>(2e6 * random.uniform() - 1e6);
        std::vector<std::uint8_t> codes(128);
        std::vector<double> decoded(128);
        std::uint16_t scale = 0;
        ASSERT_TRUE(encode_vector(q, format, x, codes, scale));
        decode_vector(q, format, codes, scale, decoded);
        double error = 0, norm2 = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
          error += (x[i] - decoded[i]) * (x[i] - decoded[i]);
          norm2 += double{x[i]} * x[i];
        }
        EXPECT_LT(error / norm2, 2.5 * std::exp2(-2 * bits) + 0.001) << bits;
      }
    }
  }
  // Beyond, the scale saturates and the vector is stored too short, never as infinity.
  const Quantizer q = make_quantizer(QuantizerKind::lm, 128, 4);
  const std::vector<float> x(128, 1e12F);
  std::vector<std::uint8_t> codes(128);
  std::uint16_t scale = 0;
  ASSERT_TRUE(encode_vector(q, ScaleFormat::f16, x, codes, scale));
  EXPECT_EQ(scale, 0x7bff);
}

TEST(VectorCodec, RefusesWhatIsNotFinite) {
  for (const QuantizerKind kind : kKinds) {
    const Quantizer q = make_quantizer(kind, 16, 4);
    std::vector<std::uint8_t> codes(16);
    std::uint16_t scale = 0;
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(), std::nextafter(kMaxMagnitude, 1e30F)}) {
      for (std::size_t at = 0; at < 16; ++at) {
        std::vector<float> x(16, 1);
        x[at] = bad;
        EXPECT_FALSE(encode_vector(q, ScaleFormat::f16, x, codes, scale));
      }
    }
    EXPECT_TRUE(encode_vector(q, ScaleFormat::f16, std::vector<float>(16, kMaxMagnitude), codes, scale));
  }
}

TEST(VectorCodec, RefusesWhatHasNoQuantizer) {
  EXPECT_THROW(make_quantizer(QuantizerKind::lm, 64, 8), Error);
  EXPECT_THROW(make_quantizer(QuantizerKind::lm, 64, 0), Error);
  EXPECT_THROW(make_quantizer(QuantizerKind::uni, 64, 9), Error);
  EXPECT_THROW(make_quantizer(QuantizerKind::uni, 96, 4), Error);
  EXPECT_THROW(make_quantizer(QuantizerKind::uni, 4, 4), Error);
  EXPECT_THROW(make_quantizer(QuantizerKind::lm, 1024, 4), Error);
}

/// All codes and scales of fixed vectors, hashed (FNV-1a): the bytes must be the same on every machine, with every
/// compiler and after every change that does not mean to change the format.
TEST(VectorCodec, BytesNeverChange) {
  Random random(1);
  std::uint64_t hash = 0xcbf29ce484222325U;
  const auto mix = [&](unsigned byte) { hash = (hash ^ byte) * 0x100000001b3U; };
  for (const QuantizerKind kind : kKinds) {
    for (std::size_t n = 8; n <= 512; n *= 2) {
      for (int bits = 1; bits <= most_bits(kind); ++bits) {
        const Quantizer q = make_quantizer(kind, n, bits);
        for (const ScaleFormat format : {ScaleFormat::f16, ScaleFormat::log8}) {
          std::vector<float> x(n);
          for (float& value : x) value = static_cast<float>(random.below(1U << 24)) * 0x1p-20F - 8;
          std::vector<std::uint8_t> codes(n);
          std::uint16_t scale = 0;
          ASSERT_TRUE(encode_vector(q, format, x, codes, scale));
          for (const std::uint8_t code : codes) mix(code);
          mix(scale & 0xffU);
          mix(scale >> 8U);
        }
      }
    }
  }
  EXPECT_EQ(hash, 8106514605745425736U);
}

}  // namespace
}  // namespace kvant::codec
