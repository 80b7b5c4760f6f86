#include "kernels/fwht/fwht.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "base/random.h"

namespace kvant::kernels {
namespace {

std::vector<float> normals(std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

double definition(const std::vector<float>& x, std::size_t i) {
  double sum = 0;
  for (std::size_t j = 0; j < x.size(); ++j)
    sum += (std::popcount(i & j) % 2 == 0 ? 1 : -1) * static_cast<double>(x[j]);
  return sum / std::sqrt(static_cast<double>(x.size()));
}

TEST(Fwht, MatchesItsDefinition) {
  for (std::size_t n = 2; n <= 256; n *= 2) {
    const std::vector<float> x = normals(n, n);
    std::vector<float> y = x;
    fwht(Isa::scalar)(y.data(), n);
    // log2(n) additions and a product, each off by half an ulp of at most the norm of x.
    const double tolerance = 0x1p-24 * (2 + std::log2(n)) * std::sqrt(static_cast<double>(n));
    for (std::size_t i = 0; i < n; ++i) EXPECT_NEAR(static_cast<double>(y[i]), definition(x, i), tolerance) << n;
  }
}

TEST(Fwht, SameBitsOnEveryTierAtAnyAlignment) {
  for (const auto& tier : fwht_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (std::size_t n = 2; n <= 256; n *= 2) {
      for (std::size_t offset : {0U, 1U, 3U}) {
        const std::vector<float> x = normals(n, 3 * n);
        std::vector<float> expected = x;
        fwht(Isa::scalar)(expected.data(), n);
        std::vector<float> y(n + offset + 1, 7.0F);
        std::copy(x.begin(), x.end(), y.begin() + static_cast<std::ptrdiff_t>(offset));
        tier.function(y.data() + offset, n);
        for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(y[offset + i], expected[i]) << tier.name << ' ' << n << ' ' << i;
        EXPECT_EQ(y.back(), 7.0F);
      }
    }
  }
}

TEST(Fwht, HeadsAreCutIntoPowersOfTwoAndTurnedBackByTheSame) {
  for (std::size_t dims : {8U, 64U, 80U, 96U, 128U, 256U}) {
    const std::vector<float> x = normals(dims, dims);
    std::vector<float> y = x;
    rotate_head(fwht(Isa::scalar), y.data(), dims);
    const std::size_t n = std::min<std::size_t>(64, std::bit_floor(dims));
    EXPECT_NEAR(y[0], definition({x.begin(), x.begin() + static_cast<std::ptrdiff_t>(n)}, 0), 1e-5) << dims;
    if (dims == 80 || dims == 96) {
      EXPECT_NEAR(y[64], definition({x.begin() + 64, x.end()}, 0), 1e-5) << dims;
    }
    rotate_head(fwht(Isa::scalar), y.data(), dims);
    for (std::size_t i = 0; i < dims; ++i)
      EXPECT_NEAR(y[i], x[i], 4e-6F) << dims;  // 2 x 7 roundings of values up to 20
  }
}

}  // namespace
}  // namespace kvant::kernels
