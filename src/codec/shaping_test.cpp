#include "codec/shaping.h"

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/random.h"

namespace kvant::codec {
namespace {

using testing::Each;

constexpr QuantizerKind kKinds[] = {QuantizerKind::lm, QuantizerKind::uni};

std::vector<float> normals(Random& random, std::size_t n) {
  std::vector<float> x(n);
  for (float& value : x) value = static_cast<float>(random.normal());
  return x;
}

/// The sum over k of (k + 1)^-decay b_k b_k^T for random b_k.
std::vector<double> random_metric(std::size_t n, double decay, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> metric(n * n);
  for (std::size_t k = 0; k < n; ++k) {
    const auto b = normals(random, n);
    const double energy = std::pow(static_cast<double>(k) + 1, -decay);
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) metric[i * n + j] += energy * double{b[i]} * double{b[j]};
    }
  }
  return metric;
}

std::vector<double> identity(std::size_t n) {
  std::vector<double> metric(n * n);
  for (std::size_t i = 0; i < n; ++i) metric[i * n + i] = 3;
  return metric;
}

/// e^T M e of a decoded vector.
double cost(std::span<const double> metric, const Quantizer& q, ScaleFormat format, std::span<const float> x,
            std::span<const std::uint8_t> codes, std::uint16_t scale) {
  const std::size_t n = x.size();
  std::vector<double> e(n);
  decode_vector(q, format, codes, scale, e);
  for (std::size_t i = 0; i < n; ++i) e[i] = double{x[i]} - e[i];
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) sum += e[i] * metric[i * n + j] * e[j];
  }
  return sum;
}

/// The mean cost with shaped codes over that with nearest ones, in a metric that need not be the one shaped for.
double shaped_over_plain(std::span<const double> metric, const Shaping& shaping, const Quantizer& q,
                         ScaleFormat format) {
  const std::size_t n = q.dimension;
  Random random(17);
  std::vector<std::uint8_t> codes(n);
  std::uint16_t scale = 0;
  double plain = 0, shaped = 0;
  for (int v = 0; v < 100; ++v) {
    const auto x = normals(random, n);
    EXPECT_TRUE(encode_vector(q, format, x, codes, scale));
    plain += cost(metric, q, format, x, codes, scale);
    EXPECT_TRUE(encode_vector_shaped(q, shaping, format, x, codes, scale));
    shaped += cost(metric, q, format, x, codes, scale);
  }
  return shaped / plain;
}

/// Bands around what a search in double precision reaches: the more concentrated the energy, the lower.
TEST(Shaping, CostFallsWithTheSpread) {
  struct Case {
    double decay, least, most;
  };
  for (const Case& c : {Case{0, 0.43, 0.54}, Case{1, 0.28, 0.39}, Case{2, 0.05, 0.11}}) {
    const auto metric = random_metric(128, c.decay, 3);
    const Shaping shaping = make_shaping(metric, 128);
    for (const QuantizerKind kind : kKinds) {
      for (int bits = 2; bits <= 5; ++bits) {
        for (const ScaleFormat format : {ScaleFormat::f16, ScaleFormat::log8}) {
          SCOPED_TRACE(testing::Message() << c.decay << ' ' << bits << " bits " << static_cast<int>(kind));
          const double ratio = shaped_over_plain(metric, shaping, make_quantizer(kind, 128, bits), format);
          EXPECT_GT(ratio, c.least);
          EXPECT_LT(ratio, c.most);
        }
      }
    }
  }
}

TEST(Shaping, NoVectorEndsAboveItsStart) {
  for (const std::size_t n : {8U, 32U, 256U}) {
    const auto metric = random_metric(n, 1, n);
    const double damping = 1e-3;  // the search lowers the damped cost; this one is nearly the plain one
    const Shaping shaping = make_shaping(metric, n, damping);
    auto damped = metric;
    double mean = 0;
    for (std::size_t i = 0; i < n; ++i) mean += metric[i * n + i] / static_cast<double>(n);
    for (std::size_t i = 0; i < n; ++i) damped[i * n + i] += damping * mean;
    for (int bits = 1; bits <= 4; ++bits) {
      const Quantizer q = make_quantizer(QuantizerKind::lm, n, bits);
      Random random(5);
      std::vector<std::uint8_t> nearest(n), codes(n);
      for (int v = 0; v < 50; ++v) {
        const auto x = normals(random, n);
        std::uint16_t scale = 0, stored = 0;
        ASSERT_TRUE(encode_vector(q, ScaleFormat::f16, x, nearest, scale));
        ASSERT_TRUE(encode_vector_shaped(q, shaping, ScaleFormat::f16, x, codes, stored));
        EXPECT_EQ(stored, scale);
        const double start = cost(damped, q, ScaleFormat::f16, x, nearest, scale);
        EXPECT_LE(cost(damped, q, ScaleFormat::f16, x, codes, scale), start * (1 + 1e-5));
      }
    }
  }
}

/// Nearest codes are already best where all directions count alike, but for the scale: it was fitted after them.
TEST(Shaping, IdentityMetricChangesLittle) {
  for (const auto& metric : {identity(128), std::vector<double>(128 * 128)}) {
    const Shaping shaping = make_shaping(metric, 128);
    for (int bits = 2; bits <= 5; ++bits) {
      const Quantizer q = make_quantizer(QuantizerKind::lm, 128, bits);
      const double ratio = shaped_over_plain(identity(128), shaping, q, ScaleFormat::f16);
      EXPECT_LE(ratio, 1.0001) << bits;
      EXPECT_GT(ratio, 0.98) << bits;
    }
  }
}

TEST(Shaping, DampingKeepsThePlainError) {
  const auto metric = random_metric(128, 2, 1);
  const Quantizer q = make_quantizer(QuantizerKind::lm, 128, 3);
  double before = 100;
  for (const double damping : {0.01, 0.2, 5.0, 1e4}) {  // what the shaped codes cost where all directions count alike
    const double ratio = shaped_over_plain(identity(128), make_shaping(metric, 128, damping), q, ScaleFormat::f16);
    EXPECT_LT(ratio, before);
    before = ratio;
  }
  EXPECT_NEAR(before, 1, 0.02);
}

TEST(Shaping, ZeroAndExtremeVectors) {
  const auto metric = random_metric(32, 1, 2);
  const Shaping shaping = make_shaping(metric, 32);
  for (const QuantizerKind kind : kKinds) {
    const Quantizer q = make_quantizer(kind, 32, 3);
    std::vector<std::uint8_t> codes(32, 99), plain(32);
    std::uint16_t scale = 99;
    ASSERT_TRUE(encode_vector_shaped(q, shaping, ScaleFormat::f16, std::vector<float>(32), codes, scale));
    EXPECT_EQ(scale, 0);
    EXPECT_THAT(codes, Each(3));
    for (const float size : {kMaxMagnitude, 1e12F, 1e-6F, 0x1p-59F}) {
      std::vector<float> x(32, size);
      for (std::size_t i = 0; i < 32; i += 3) x[i] = -size;
      ASSERT_TRUE(encode_vector_shaped(q, shaping, ScaleFormat::f16, x, codes, scale));
      EXPECT_THAT(codes, Each(testing::Lt(8)));
    }
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            std::nextafter(kMaxMagnitude, 1e30F)}) {
      std::vector<float> x(32, 1);
      x[7] = bad;
      EXPECT_FALSE(encode_vector_shaped(q, shaping, ScaleFormat::f16, x, codes, scale));
    }
  }
}

TEST(Shaping, RefusesWhatIsNoMetric) {
  const auto with = [](std::size_t at, double value) {
    auto metric = identity(16);
    metric[at] = value;
    return make_shaping(metric, 16);
  };
  EXPECT_NO_THROW(with(17, 2));
  EXPECT_THROW(with(17, -1e-9), Error);
  EXPECT_THROW(with(17, std::numeric_limits<double>::quiet_NaN()), Error);
  EXPECT_THROW(with(16, std::numeric_limits<double>::infinity()), Error);
  EXPECT_THROW(with(16, 3.1), Error);
  EXPECT_NO_THROW(with(16, -3));
  EXPECT_NO_THROW(with(1, 1e9));  // the upper triangle is not read
  EXPECT_THROW(make_shaping(identity(16), 8), Error);
  EXPECT_THROW(make_shaping(identity(24), 24), Error);
  for (const double damping : {0.0, -1.0, std::numeric_limits<double>::infinity()}) {
    EXPECT_THROW(make_shaping(identity(16), 16, damping), Error);
  }
}

/// The codes of fixed vectors, hashed (FNV-1a): the same on every machine and with every compiler.
TEST(Shaping, BytesNeverChange) {
  Random random(1);
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const std::size_t n : {8U, 64U, 128U}) {
    std::vector<double> metric(n * n);  // whole numbers: exact whatever the order of the sums
    for (std::size_t k = 0; k < n; ++k) {
      std::vector<double> b(n);
      for (double& value : b) value = static_cast<double>(random.below(17)) - 8;
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t j = 0; j < n; ++j) metric[i * n + j] += b[i] * b[j] * (k < 4 ? 16 : 1);
      }
    }
    const Shaping shaping = make_shaping(metric, n, 0.25);
    for (const QuantizerKind kind : kKinds) {
      for (int bits = 1; bits <= 6; ++bits) {
        const Quantizer q = make_quantizer(kind, n, bits);
        std::vector<float> x(n);
        for (float& value : x) value = static_cast<float>(random.below(1U << 24)) * 0x1p-20F - 8;
        std::vector<std::uint8_t> codes(n);
        std::uint16_t scale = 0;
        ASSERT_TRUE(encode_vector_shaped(q, shaping, ScaleFormat::f16, x, codes, scale));
        for (const std::uint8_t code : codes) hash = (hash ^ code) * 0x100000001b3U;
      }
    }
  }
  EXPECT_EQ(hash, 17333661849384881757U);
}

}  // namespace
}  // namespace kvant::codec
