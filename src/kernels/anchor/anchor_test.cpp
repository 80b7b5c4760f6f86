#include "kernels/anchor/anchor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <complex>
#include <cstring>
#include <limits>
#include <vector>

#include "base/random.h"

namespace kvant::kernels {
namespace {

constexpr std::size_t kPage = 64;

RopeConfig plain(double base, std::size_t dims) {
  RopeConfig c;
  c.base = base;
  c.dims = dims;
  return c;
}

std::vector<RopeConfig> configs() {
  RopeConfig linear = plain(1e6, 128);
  linear.scaling = RopeConfig::Scaling::linear;
  linear.factor = 4;
  RopeConfig yarn = plain(1e6, 128);
  yarn.scaling = RopeConfig::Scaling::yarn;
  yarn.factor = 4;
  yarn.original_context = 32768;
  RopeConfig factors = plain(5e5, 64);
  for (int j = 0; j < 32; ++j) factors.frequency_factors.push_back(j % 3 == 0 ? 1.0F : 8.0F);
  return {plain(1e4, 64), plain(1e4, 80), plain(1e6, 128), plain(1e6, 256), linear, yarn, factors};
}

/// Channels [first, last) of each half are random of the given norm, the others 0.
std::vector<float> vector_of(Random& random, std::size_t pairs, std::size_t first, std::size_t last, double norm) {
  std::vector<float> x(2 * pairs);
  double sum = 0;
  for (std::size_t j = first; j < last; ++j) {
    for (const std::size_t i : {j, j + pairs}) {
      x[i] = static_cast<float>(random.normal());
      sum += double{x[i]} * double{x[i]};
    }
  }
  for (float& v : x) v = static_cast<float>(double{v} * norm / std::sqrt(sum));
  return x;
}

template <class Test>
void for_each_tier(Test test) {
  for (const auto& tier : anchor_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    SCOPED_TRACE(tier.name);
    test(tier.function);
  }
}

/// An anchor with queries, and what the kernels take of them.
struct Problem {
  RopeFrequencies frequencies;
  AnchorAngles angles;
  std::vector<float> anchor;
  AnchorPairs pairs;
  std::size_t rows;
  std::vector<float> q, re, im;

  Problem(const RopeConfig& config, std::size_t capacity, std::size_t first, std::size_t last, std::size_t rows_,
          std::uint64_t seed)
      : frequencies(rope_frequencies(config)), angles(frequencies, capacity), rows(rows_) {
    Random random(seed);
    const std::size_t n = angles.pairs();
    anchor = first < last ? vector_of(random, n, first, last, 1000) : std::vector<float>(2 * n);
    pairs = make_anchor_pairs(angles, anchor);
    re.assign(rows * angles.padded_pairs(), 7);
    im = re;
    for (std::size_t r = 0; r < rows; ++r) {
      const auto row = vector_of(random, n, 0, n, 30);
      q.insert(q.end(), row.begin(), row.end());
      anchor_products(angles, pairs, row.data(), re.data() + r * angles.padded_pairs(),
                      im.data() + r * angles.padded_pairs());
    }
  }
  AnchorArgs args(std::size_t page, float* logits) const {
    return {angles, pairs, re.data(), im.data(), rows, page, logits};
  }
  std::complex<double> product(std::size_t row, std::size_t j) const {
    const std::size_t n = angles.pairs();
    const std::complex<double> query(q[row * 2 * n + j], q[row * 2 * n + j + n]);
    return std::conj(query) * std::complex<double>(anchor[j], anchor[j + n]);
  }
};

/// The greatest error of a page's logits, over the sum of |C_j|; also the greatest logit so.
struct Measured {
  double error = 0, logit = 0;
};

void measure(const Problem& p, AnchorFunction kernel, std::size_t page, Measured& most) {
  std::vector<float> logits(p.rows * kPage);
  kernel(p.args(page, logits.data()));
  const std::size_t n = p.angles.pairs();
  std::vector<std::complex<double>> turns(kPage * n);
  for (std::size_t i = 0; i < turns.size(); ++i) {
    const auto angle = static_cast<long double>(page * kPage + i / n) * p.frequencies.theta[i % n];
    turns[i] = p.frequencies.magnitude *
               std::complex<double>(static_cast<double>(std::cos(angle)), static_cast<double>(std::sin(angle)));
  }
  for (std::size_t r = 0; r < p.rows; ++r) {
    double size = 0;
    for (std::size_t j = 0; j < n; ++j) size += std::abs(p.product(r, j));
    for (std::size_t t = 0; t < kPage; ++t) {
      double expected = 0;
      for (std::size_t j = 0; j < n; ++j) expected += (p.product(r, j) * turns[t * n + j]).real();
      most.error = std::max(most.error, std::abs(double{logits[r * kPage + t]} - expected) / size);
      most.logit = std::max(most.logit, std::abs(expected) / size);
    }
  }
}

void expect_exact(const RopeConfig& config, std::size_t first, std::size_t last) {
  const std::size_t pages[] = {0, 1, 63, 511, 2047, 2048, 16384};
  const Problem p(config, 16385 * kPage, first, last, 3, 5);
  for_each_tier([&](AnchorFunction kernel) {
    Measured most;
    for (const std::size_t page : pages) measure(p, kernel, page, most);
    EXPECT_LE(most.error, 1e-6);
    EXPECT_GT(most.error, 1e-9) << "f32 cannot be this exact: the reference is not one";
    EXPECT_GT(most.logit, 0.1);
    testing::Test::RecordProperty("error", std::to_string(most.error * 1e9) + "e-9");
  });
}

TEST(Anchor, AllPairsAreExactAtEveryPosition) {
  for (const RopeConfig& c : configs()) {
    SCOPED_TRACE(testing::Message() << "base " << c.base << ", dims " << c.dims << ", factor " << c.factor);
    expect_exact(c, 0, c.dims / 2);
  }
}

TEST(Anchor, FastPairsAlone) {
  const RopeConfig c = plain(1e6, 128);
  const Problem p(c, 64, 2, 9, 1, 1);
  EXPECT_EQ(p.pairs.slow_first, p.pairs.slow_last);
  EXPECT_EQ(p.pairs.fast, (std::vector<std::uint16_t>{2, 3, 4, 5, 6, 7, 8}));
  expect_exact(c, 2, 9);
}

TEST(Anchor, SlowPairsAlone) {
  const RopeConfig c = plain(1e6, 128);
  const Problem p(c, 64, 20, 45, 1, 1);
  EXPECT_EQ(p.pairs.slow_first, 16u);
  EXPECT_EQ(p.pairs.slow_last, 48u);
  EXPECT_TRUE(p.pairs.fast.empty());
  for (const auto& [first, last] : {std::pair{20, 45}, {20, 21}, {31, 33}, {48, 64}}) {
    expect_exact(c, static_cast<std::size_t>(first), static_cast<std::size_t>(last));
  }
}

TEST(Anchor, WithoutPairsNothingChanges) {
  const Problem p(plain(1e6, 128), 64, 0, 0, 2, 1);
  for_each_tier([&](AnchorFunction kernel) {
    std::vector<float> logits(2 * kPage, -0.0F);
    logits[5] = std::numeric_limits<float>::signaling_NaN();
    const auto before = logits;
    kernel(p.args(0, logits.data()));
    EXPECT_EQ(std::memcmp(logits.data(), before.data(), logits.size() * sizeof(float)), 0);
  });
}

TEST(Anchor, AddsToTheLogits) {
  const Problem p(plain(1e6, 128), 128, 0, 64, 1, 1);
  for_each_tier([&](AnchorFunction kernel) {
    std::vector<float> alone(kPage), added(kPage);
    for (std::size_t t = 0; t < kPage; ++t) added[t] = static_cast<float>(t) * 0x1p10F;
    added[63] = std::numeric_limits<float>::quiet_NaN();  // beyond the visible tokens
    kernel(p.args(1, alone.data()));
    kernel(p.args(1, added.data()));
    for (std::size_t t = 0; t < kPage - 1; ++t) EXPECT_EQ(added[t], static_cast<float>(t) * 0x1p10F + alone[t]) << t;
    EXPECT_TRUE(std::isnan(added[63]));
  });
}

TEST(Anchor, RowsDoNotDependOnEachOther) {
  for (std::size_t rows = 2; rows <= 7; ++rows) {
    const Problem p(plain(1e6, 128), 640, 10, 60, rows, rows);
    for_each_tier([&](AnchorFunction kernel) {
      std::vector<float> together(rows * kPage), alone(kPage);
      kernel(p.args(7, together.data()));
      for (std::size_t r = 0; r < rows; ++r) {
        std::fill(alone.begin(), alone.end(), 0.0F);
        const std::size_t offset = r * p.angles.padded_pairs();
        kernel({p.angles, p.pairs, p.re.data() + offset, p.im.data() + offset, 1, 7, alone.data()});
        EXPECT_EQ(std::memcmp(alone.data(), together.data() + r * kPage, kPage * sizeof(float)), 0) << rows << ' ' << r;
      }
    });
  }
}

/// The greatest error of a slow pair's polynomial over the page, evaluated in double: of cos and sin as one complex
/// number.
double fit_error(double theta) {
  const RopeFrequencies f{{theta}, 1};
  const AnchorAngles angles(f, kPage);
  EXPECT_TRUE(angles.slow(0));
  double most = 0;
  for (std::size_t t = 0; t < kPage; ++t) {
    const double u = (static_cast<double>(t) - 31.5) / 31.5;
    double power = 1, parts[2] = {};
    for (std::size_t n = 0; n < kAnchorTerms; ++n, power *= u) parts[n % 2] += double{angles.terms(n)[0]} * power;
    const std::complex<double> exact = std::polar(1.0, 31.5 * theta * u);
    most = std::max(most, std::abs(exact - std::complex<double>(parts[0], parts[1])));
  }
  return most;
}

TEST(Anchor, SlowestToFastestPolynomials) {
  double slower = 0;
  for (const int degree : {3, 5, 7}) {
    const double theta = AnchorAngles::slow_theta(degree);
    EXPECT_GT(theta, 2 * slower);
    slower = theta;
    // The bound is almost reached: it is the first term that the polynomial lacks. Coefficients are rounded to f32.
    const double rounding = 0x1p-25 * 1.5;
    EXPECT_LT(fit_error(theta), 3e-8 + rounding) << degree;
    EXPECT_GT(fit_error(theta), 3e-8 * 0.9 - rounding) << degree;
    const AnchorAngles below({{theta}, 1}, 1), above({{theta * 1.0001}, 1}, 1);
    EXPECT_EQ(below.block_terms(0), static_cast<std::size_t>(degree) + 1);
    EXPECT_EQ(above.block_terms(0), degree == 7 ? 0 : static_cast<std::size_t>(degree) + 3);
  }
  EXPECT_LT(fit_error(1e-9), 0x1p-25);
}

TEST(Anchor, TablesCoverTheCapacity) {
  const RopeFrequencies f = rope_frequencies(plain(1e6, 128));
  for (const auto& [capacity, pages] : {std::pair{0, 0}, {1, 1}, {64, 1}, {65, 2}}) {
    const AnchorAngles angles(f, static_cast<std::size_t>(capacity)), none(f, 0);
    EXPECT_EQ(angles.bytes() - none.bytes(), static_cast<std::size_t>(pages) * 2 * 64 * sizeof(float));
  }
}

}  // namespace
}  // namespace kvant::kernels
