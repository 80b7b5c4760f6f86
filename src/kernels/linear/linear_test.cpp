#include "kernels/linear/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"

namespace kvant::kernels {
namespace {

/// A product with strides larger than needed; what lies between must stay.
struct Product {
  static constexpr float kUntouched = 7;
  std::size_t rows, inputs, lanes;
  std::vector<float> x;
  std::vector<Bf16> m;

  Product(std::size_t row_count, std::size_t input_count, std::size_t lane_count)
      : rows(row_count), inputs(input_count), lanes(lane_count) {
    Random random(rows * 1'000'000 + inputs * 1000 + lanes);
    for (std::size_t i = 0; i < rows * (inputs + 3); ++i) x.push_back(static_cast<float>(random.normal()));
    for (std::size_t i = 0; i < inputs * lanes; ++i) m.push_back(to_bf16(static_cast<float>(random.normal())));
  }
  std::vector<float> run(LinearFunction f) const {
    std::vector<float> y(rows * (lanes + 1), kUntouched);
    f({x.data(), inputs + 3, m.data(), inputs, lanes, rows, y.data(), lanes + 1});
    return y;
  }
};

TEST(Linear, MatchesItsDefinition) {
  const Product p(7, 96, 40);
  const std::vector<float> y = p.run(linear(Isa::scalar));
  for (std::size_t r = 0; r < p.rows; ++r) {
    for (std::size_t lane = 0; lane < p.lanes; ++lane) {
      double sum = 0, magnitudes = 0;
      for (std::size_t i = 0; i < p.inputs; ++i) {
        const double product = double{p.x[r * (p.inputs + 3) + i]} * double{to_float(p.m[i * p.lanes + lane])};
        sum += product;
        magnitudes += std::abs(product);
      }
      // Each term passes one rounding as a product and at most one for each of the sums.
      const double tolerance = 0x1p-24 * static_cast<double>(p.inputs + 1) * magnitudes;
      EXPECT_NEAR(double{y[r * (p.lanes + 1) + lane]}, sum, tolerance) << r << ' ' << lane;
    }
    EXPECT_EQ(y[r * (p.lanes + 1) + p.lanes], Product::kUntouched);
  }
}

TEST(Linear, SumsAreNeitherFusedNorReordered) {
  // The product of the last terms loses its 2^-30 when it is rounded; from the end on, 512 would swallow all else.
  const std::vector<float> x{512, -512, -1 - 0x1p-7F, 1 + 0x1p-23F};
  const std::vector<Bf16> m{to_bf16(1), to_bf16(1), to_bf16(1), to_bf16(1 + 0x1p-7F)};
  for (const auto& tier : linear_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    float y = 0;
    tier.function({x.data(), 4, m.data(), 4, 1, 1, &y, 1});
    EXPECT_EQ(y, 0x1p-23F) << tier.name;
  }
}

TEST(Linear, SameBitsOnEveryTierForAnySizes) {
  for (const auto& tier : linear_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (std::size_t rows = 1; rows <= 14; ++rows) {
      for (const std::size_t inputs : {1U, 64U, 80U}) {
        for (const std::size_t lanes : {1U, 7U, 8U, 24U, 64U, 72U, 80U, 96U, 128U, 136U}) {
          const Product p(rows, inputs, lanes);
          EXPECT_EQ(p.run(tier.function), p.run(linear(Isa::scalar))) << tier.name << ' ' << rows << ' ' << lanes;
        }
      }
    }
  }
}

TEST(Linear, ARowHasTheSameBitsAlone) {
  for (const auto& tier : linear_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    const Product p(13, 128, 128);
    const std::vector<float> all = p.run(tier.function);
    for (std::size_t r = 0; r < p.rows; ++r) {
      std::vector<float> y(p.lanes);
      tier.function({p.x.data() + r * (p.inputs + 3), 0, p.m.data(), p.inputs, p.lanes, 1, y.data(), 0});
      const float* in_all = all.data() + r * (p.lanes + 1);
      EXPECT_TRUE(std::equal(y.begin(), y.end(), in_all)) << tier.name << ' ' << r;
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
