#include "codec/transform.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/random.h"
#include "codec/codebook.h"
#include "codec/head_code.h"
#include "codec/vector_codec.h"

namespace kvant::codec {
namespace {

using Values = std::vector<double>;

/// A random matrix [rows][n] of normal values, whose column i is scaled by scale(i).
template <class Scale>
Values normals(Random& random, std::size_t rows, std::size_t n, Scale&& scale) {
  Values x(rows * n);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = random.normal() * scale(i % n);
  return x;
}

/// x^T x / rows for x [rows][n].
Values gram(const Values& x, std::size_t n) {
  const std::size_t rows = x.size() / n;
  Values out(n * n);
  for (std::size_t r = 0; r < rows; ++r) {
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) out[i * n + j] += x[r * n + i] * x[r * n + j] / static_cast<double>(rows);
    }
  }
  return out;
}

/// A b for a [rows][inner], b [inner][columns].
Values product(const Values& a, const Values& b, std::size_t inner) {
  const std::size_t rows = a.size() / inner, columns = b.size() / inner;
  Values out(rows * columns);
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t k = 0; k < inner; ++k) {
      for (std::size_t j = 0; j < columns; ++j) out[i * columns + j] += a[i * inner + k] * b[k * columns + j];
    }
  }
  return out;
}

Values transposed(const Values& a, std::size_t columns) {
  const std::size_t rows = a.size() / columns;
  Values out(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) out[i % columns * rows + i / columns] = a[i];
  return out;
}

double trace(const Values& a, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += a[i * n + i];
  return sum;
}

Values with_floor(Values a, std::size_t n, double floor) {
  const double added = floor * trace(a, n) / static_cast<double>(n);
  for (std::size_t i = 0; i < n; ++i) a[i * n + i] += added;
  return a;
}

/// The first n rows of T or U.
Values numbers(const std::vector<Bf16>& matrix, std::size_t n) {
  Values out(n * n);
  std::transform(matrix.begin(), matrix.begin() + static_cast<std::ptrdiff_t>(out.size()), out.begin(),
                 [](Bf16 x) { return to_float(x); });
  return out;
}

double square(double x) { return x * x; }

double squared_root_sum(std::span<const double> energies) {
  return square(std::accumulate(energies.begin(), energies.end(), 0.0,
                                [](double sum, double energy) { return sum + std::sqrt(energy); }));
}

/// Mean over positions of the moments turned by each, one after the other.
Values turned(const Values& moment, std::size_t n, const Values& frequencies, std::size_t positions) {
  const std::size_t pairs = frequencies.size();
  Values sum(n * n);
  for (std::size_t m = 0; m < positions; ++m) {
    Values turn(n * n);
    for (std::size_t c = 2 * pairs; c < n; ++c) turn[c * n + c] = 1;
    for (std::size_t j = 0; j < pairs; ++j) {
      const double angle = frequencies[j] * static_cast<double>(m);
      turn[j * n + j] = turn[(j + pairs) * n + j + pairs] = std::cos(angle);
      turn[(j + pairs) * n + j] = std::sin(angle);
      turn[j * n + j + pairs] = -std::sin(angle);
    }
    const Values one = product(product(turn, moment, n), transposed(turn, n), n);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += one[i] / static_cast<double>(positions);
  }
  return sum;
}

TEST(AverageOverPositions, IsTheMeanOfTurnedMoments) {
  Random random(3);
  struct Case {
    std::size_t n;
    Values frequencies;
  };
  // No RoPE, all dims, dims that stay, equal and nearly equal frequencies, zero, negative and above pi.
  for (const Case& c : {Case{6, {}}, Case{8, {1, 0.3, 0.01, 1e-4}}, Case{10, {0.9, 0.02, 1e-9}},
                        Case{8, {0.5, 0.5, 0.5 + 1e-13, 0}}, Case{4, {3.5, -0.7}}}) {
    const Values moment =
        gram(normals(random, 3, c.n, [](std::size_t i) { return 1.0 + static_cast<double>(i); }), c.n);
    for (const std::size_t positions : {1u, 2u, 37u, 500u}) {
      Values average = moment;
      average_over_positions(average, c.n, c.frequencies, positions);
      const Values expected = turned(moment, c.n, c.frequencies, positions);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        EXPECT_NEAR(average[i], expected[i], 1e-11 * trace(moment, c.n)) << c.n << ' ' << positions << ' ' << i;
      }
    }
  }
}

/// Over a million positions the direct sum is too slow for all, but one entry has a known mean: E[z0 conj z1] = 1 gives
/// that of e^(i w m), whose sum over m is (1 - e^(i w N)) / (1 - e^(i w)).
TEST(AverageOverPositions, KeepsItsDigitsAtTinyDifferences) {
  constexpr std::size_t kPositions = 1'000'000;
  for (const double w : {1e-3, 1e-7, 1e-10, 1e-15, 0.0}) {
    Values moment = {1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1};
    average_over_positions(moment, 4, Values{0.75 + w, 0.75}, kPositions);
    // By the series in w for small angles, the direct sum otherwise.
    const double exact_w = 0.75 + w - 0.75;
    std::complex<double> sum = 0;
    for (std::size_t m = 0; m < kPositions; ++m) sum += std::polar(1.0, exact_w * static_cast<double>(m));
    sum /= static_cast<double>(kPositions);
    EXPECT_NEAR(moment[1], sum.real(), 1e-10) << w;
    EXPECT_NEAR(moment[2 * 4 + 1], sum.imag(), 1e-10) << w;
  }
}

TEST(AverageOverPositions, RefusesWhatDoesNotFit) {
  Values moment(16);
  EXPECT_THAT([&] { average_over_positions(moment, 4, Values(3), 8); },
              testing::ThrowsMessage<Error>("moments of 16 values for 4 dims and 3 RoPE pairs"));
  EXPECT_THAT([&] { average_over_positions(moment, 3, {}, 8); },
              testing::ThrowsMessage<Error>("moments of 16 values for 3 dims and 0 RoPE pairs"));
  EXPECT_THAT([&] { average_over_positions(moment, 4, {}, 0); },
              testing::ThrowsMessage<Error>("an average over 0 positions"));
}

class Transforms : public testing::TestWithParam<std::size_t> {
 protected:
  const std::size_t n = GetParam();
  Random random{n};
  /// Energies fall by `decay` from the first to the last of the original dims.
  Values some_moment(double decay) {
    const Values mix = normals(random, n, n, [](std::size_t) { return 1.0; });
    Values x = normals(random, 4 * n, n, [&](std::size_t i) {
      return std::pow(decay, -0.5 * static_cast<double>(i) / static_cast<double>(n));
    });
    for (std::size_t i = 0; i < x.size(); ++i) x[i] += 0.1 * mix[i % mix.size()];
    return gram(x, n);
  }
};

TEST_P(Transforms, HaveTheirTransposedInverse) {
  const HeadTransform t = make_head_transform(some_moment(100), some_moment(30), n);
  ASSERT_EQ(t.transform.size(), coded_dims(n) * n);
  ASSERT_EQ(t.inverse.size(), coded_dims(n) * n);
  ASSERT_EQ(t.energies.size(), n);
  for (std::size_t i = n * n; i < t.transform.size(); ++i) {
    ASSERT_EQ(t.transform[i].bits, 0) << i;
    ASSERT_EQ(t.inverse[i].bits, 0) << i;
  }
  const Values a = numbers(t.transform, n), b = numbers(t.inverse, n), one = product(a, transposed(b, n), n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      // U is rounded by 2^-8 of each entry at most: T U^T is off by their sum at most.
      double most = 1e-9;
      for (std::size_t k = 0; k < n; ++k) most += 0x1p-8 * std::abs(a[i * n + k] * b[j * n + k]);
      EXPECT_NEAR(one[i * n + j], i == j, most) << i << ' ' << j;
    }
  }
}

TEST_P(Transforms, DecorrelateInTheMetric) {
  const Values covariance = some_moment(100), metric = some_moment(30);
  const HeadTransform t = make_head_transform(covariance, metric, n);
  EXPECT_TRUE(std::is_sorted(t.energies.rbegin(), t.energies.rend()));
  const Values a = numbers(t.transform, n), b = numbers(t.inverse, n);
  const Values stored = product(product(a, with_floor(covariance, n, kTransformFloor), n), transposed(a, n), n);
  const Values weights = product(product(b, with_floor(metric, n, kTransformFloor), n), transposed(b, n), n);
  EXPECT_NEAR(trace(stored, n) / trace(covariance, n), 1 + kTransformFloor, 0x1p-8);
  const double scale = trace(stored, n) / trace(weights, n);
  // Rounding T by 2^-8 of its entries mixes dims of up to 55 times (eigenvalues over the floor) the energy.
  for (std::size_t i = 0; i < n; ++i) {
    const double energy = std::sqrt(t.energies[i]);
    EXPECT_NEAR(stored[i * n + i] / std::sqrt(scale) / energy, 1, 0.02) << i;
    EXPECT_NEAR(weights[i * n + i] * std::sqrt(scale) / energy, 1, 0.02) << i;
    for (std::size_t j = 0; j < i; ++j) {
      const double both = std::sqrt(stored[i * n + i] * stored[j * n + j]);
      EXPECT_NEAR(stored[i * n + j] / both, 0, 0.02) << i << ' ' << j;
    }
  }
}

/// The best factors on pairs, shared by their two dims, are one of the maps that the transform is the best of.
TEST_P(Transforms, CostNoMoreThanPairScales) {
  for (int round = 0; round < 4; ++round) {
    const Values covariance = some_moment(std::pow(10.0, round)), metric = some_moment(std::pow(10.0, 3 - round));
    const double cost = squared_root_sum(make_head_transform(covariance, metric, n).energies);
    const Values c = with_floor(covariance, n, kTransformFloor), m = with_floor(metric, n, kTransformFloor);
    double scaled = 0;
    for (std::size_t j = 0; j < n / 2; ++j) {
      const std::size_t first = j * (n + 1), second = (j + n / 2) * (n + 1);
      scaled += std::sqrt((c[first] + c[second]) * (m[first] + m[second]));
    }
    EXPECT_LT(cost, square(scaled));
    EXPECT_GT(cost, 0);
  }
  // They are equal where dims are uncorrelated and the dims of a pair alike.
  Values c(n * n), m(n * n);
  double scaled = 0;
  for (std::size_t i = 0; i < n; ++i) {
    c[i * n + i] = 1 + static_cast<double>(i % (n / 2));
    m[i * n + i] = 1 / square(c[i * n + i]);
    scaled += std::sqrt(c[i * n + i] * m[i * n + i]);
  }
  EXPECT_NEAR(squared_root_sum(make_head_transform(c, m, n, 0).energies) / square(scaled), 1, 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Dims, Transforms, testing::Values(2, 10, 64, 80, 128));

/// In place: signs, then the orthonormal Walsh-Hadamard transform.
void rotate(std::span<double> x, std::span<const double> signs) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= signs[i] / std::sqrt(static_cast<double>(x.size()));
  for (std::size_t step = 1; step < x.size(); step *= 2) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      if ((i & step) != 0) continue;
      const double a = x[i], b = x[i + step];
      x[i] = a + b;
      x[i + step] = a - b;
    }
  }
}
void rotate_back(std::span<double> x, std::span<const double> signs) {
  rotate(x, Values(x.size(), 1));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= signs[i];
}

struct CodedPart {
  std::size_t dims;
  int bits;  ///< of lm; 0: not stored
};

/// Gaussian vectors coded in parts with the codecs of the cache cost what the energies predict.
TEST(HeadTransform, PredictsTheCostOfCoding) {
  constexpr std::size_t kDims = 128, kVectors = 4000;
  Random random(17);
  const auto mixed = [&](double decay) {
    Values x = normals(random, 2 * kDims, kDims, [&](std::size_t i) {
      return std::pow(decay, -0.5 * static_cast<double>(i) / static_cast<double>(kDims));
    });
    return with_floor(gram(x, kDims), kDims, kTransformFloor);
  };
  const Values covariance = mixed(20), metric = mixed(8);
  const HeadTransform t = make_head_transform(covariance, metric, kDims, 0);
  const Values forward = numbers(t.transform, kDims), inverse = numbers(t.inverse, kDims);
  // x = L g with the Cholesky factor of the covariance.
  Values factor(kDims * kDims);
  for (std::size_t i = 0; i < kDims; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = covariance[i * kDims + j];
      for (std::size_t k = 0; k < j; ++k) sum -= factor[i * kDims + k] * factor[j * kDims + k];
      factor[i * kDims + j] = i == j ? std::sqrt(sum) : sum / factor[j * kDims + j];
    }
  }
  const Values g = normals(random, kVectors, kDims, [](std::size_t) { return 1.0; });
  const Values stored = product(product(g, transposed(factor, kDims), kDims), transposed(forward, kDims), kDims);

  for (const auto& parts : {std::vector<CodedPart>{{128, 3}}, {{64, 4}, {64, 2}}, {{64, 3}, {32, 2}, {32, 0}}}) {
    Values errors(stored.size());
    double predicted = 0;
    for (std::size_t first = 0; const CodedPart& part : parts) {
      const auto energies = std::span(t.energies).subspan(first, part.dims);
      const bool coded = part.bits > 0;
      const double distortion = coded ? byte_levels(solve_codebook(part.dims, part.bits)).distortion : 1;
      const double cost = distortion / static_cast<double>(part.dims) * squared_root_sum(energies);
      predicted += coded ? cost : std::accumulate(energies.begin(), energies.end(), 0.0);
      Values signs(part.dims);
      for (double& s : signs) s = random.uniform() < 0.5 ? -1 : 1;
      const Quantizer q = make_quantizer(QuantizerKind::lm, part.dims, std::max(1, part.bits));
      for (std::size_t v = 0; v < kVectors; ++v) {
        const auto begin = stored.begin() + static_cast<std::ptrdiff_t>(v * kDims + first);
        Values y(begin, begin + static_cast<std::ptrdiff_t>(part.dims)), decoded(part.dims);
        rotate(y, signs);
        if (coded) {
          const std::vector<float> x(y.begin(), y.end());
          std::vector<std::uint8_t> codes(part.dims);
          std::uint16_t scale = 0;
          ASSERT_TRUE(encode_vector(q, ScaleFormat::f16, x, codes, scale));
          decode_vector(q, ScaleFormat::f16, codes, scale, decoded);
        }
        for (std::size_t i = 0; i < part.dims; ++i) decoded[i] -= y[i];
        rotate_back(decoded, signs);
        std::copy(decoded.begin(), decoded.end(), errors.begin() + static_cast<std::ptrdiff_t>(v * kDims + first));
      }
      first += part.dims;
    }
    const Values original = product(errors, inverse, kDims);  // e = U^T of the stored error
    const Values weighted = product(original, metric, kDims);
    const double measured =
        std::inner_product(original.begin(), original.end(), weighted.begin(), 0.0) / static_cast<double>(kVectors);
    // The least-squares scales take up to 2.4 dims' worth of a part's error away; 4000 vectors scatter by 1 %.
    EXPECT_LT(measured / predicted, 1.015) << parts.size() << " parts";
    EXPECT_GT(measured / predicted, 0.95) << parts.size() << " parts";
  }
}

TEST(HeadTransform, TakesSingularMatrices) {
  constexpr std::size_t kDims = 16;
  Random random(2);
  const Values one = gram(normals(random, 1, kDims, [](std::size_t) { return 1e6; }), kDims);
  Values other(kDims * kDims);
  other[0] = 1e-12;
  for (const double floor : {kTransformFloor, 0.0}) {
    const HeadTransform t = make_head_transform(one, other, kDims, floor);
    for (const auto* matrix : {&t.transform, &t.inverse}) {
      for (const Bf16 x : *matrix) EXPECT_TRUE(std::isfinite(to_float(x))) << floor;
    }
    for (const double energy : t.energies) EXPECT_GT(energy, 0) << floor;
  }
}

TEST(HeadTransform, ReadsTheLowerTriangle) {
  Random random(4);
  Values c = gram(normals(random, 9, 6, [](std::size_t) { return 1.0; }), 6), m = c;
  const HeadTransform expected = make_head_transform(c, m, 6);
  for (std::size_t i = 0; i < 6; ++i) {
    for (std::size_t j = i + 1; j < 6; ++j) c[i * 6 + j] = m[i * 6 + j] = std::numeric_limits<double>::quiet_NaN();
  }
  const HeadTransform t = make_head_transform(c, m, 6);
  EXPECT_EQ(t.transform, expected.transform);
  EXPECT_EQ(t.inverse, expected.inverse);
  EXPECT_EQ(t.energies, expected.energies);
}

TEST(HeadTransform, RefusesWhatIsNoMoment) {
  const Values one = {1, 0, 0, 1};
  const auto expect = [](const Values& c, const Values& m, std::size_t n, const char* message) {
    EXPECT_THAT([&] { make_head_transform(c, m, n); }, testing::ThrowsMessage<Error>(message));
  };
  expect({}, {}, 0, "a transform of 0 dims, expected an even number from 2 to 512");
  expect(Values(9), Values(9), 3, "a transform of 3 dims, expected an even number from 2 to 512");
  expect({}, {}, 514, "a transform of 514 dims, expected an even number from 2 to 512");
  expect(Values(3), one, 2, "a transform of 2 dims: a covariance of 3 values, expected 4");
  expect(one, Values(5), 2, "a transform of 2 dims: a metric of 5 values, expected 4");
  expect({1, 0, std::nan(""), 1}, one, 2, "a transform of 2 dims: entry [1,0] of the covariance is nan");
  expect(one, {1, 0, 0, INFINITY}, 2, "a transform of 2 dims: entry [1,1] of the metric is inf");
  expect(Values(4), one, 2, "a transform of 2 dims: the trace of the covariance is 0, expected a positive number");
  expect(one, {1, 0, 0, -2}, 2, "a transform of 2 dims: the trace of the metric is -1, expected a positive number");
}

}  // namespace
}  // namespace kvant::codec
