#include "kernels/elementwise/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/random.h"

namespace kvant::kernels {
namespace {

constexpr std::size_t kSizes[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 1536, 8961};

std::vector<float> normals(std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

template <class Test>
void for_each_tier(Test test) {
  for (const auto& tier : elementwise_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    SCOPED_TRACE(tier.name);
    test(*tier.function);
  }
}

TEST(Elementwise, RmsNormMatchesDouble) {
  for_each_tier([](const Elementwise& e) {
    for (std::size_t n : kSizes) {
      const auto x = normals(n, n);
      const auto weight = normals(n, n + 1);
      double mean = 0;
      for (float v : x) mean += static_cast<double>(v) * static_cast<double>(v);
      mean /= static_cast<double>(n);
      std::vector<float> out(n + 1, 9.0F);
      e.rms_norm(x.data(), weight.data(), 1e-6F, n, out.data());
      const double scale = 1 / std::sqrt(mean + 1e-6);
      // Two products, the root and the quotient; the sum of squares has up to n / 4 roundings in a chain (n in the
      // scalar tier), which add up as a random walk of half an ulp and are halved by the root.
      const double relative = 0x1p-24 * (4 + std::sqrt(static_cast<double>(n)));
      for (std::size_t i = 0; i < n; ++i) {
        const double expected = static_cast<double>(x[i]) * scale * static_cast<double>(weight[i]);
        ASSERT_NEAR(static_cast<double>(out[i]), expected, std::abs(expected) * relative) << n << ' ' << i;
      }
      EXPECT_EQ(out[n], 9.0F);
      auto in_place = x;
      e.rms_norm(in_place.data(), weight.data(), 1e-6F, n, in_place.data());
      EXPECT_TRUE(std::equal(in_place.begin(), in_place.end(), out.begin()));
    }
  });
}

TEST(Elementwise, RmsNormOfZerosIsZero) {
  for_each_tier([](const Elementwise& e) {
    std::vector<float> x(40, 0.0F), weight(40, 2.0F);
    e.rms_norm(x.data(), weight.data(), 1e-6F, 40, x.data());
    EXPECT_EQ(x, std::vector<float>(40, 0.0F));
  });
}

TEST(Elementwise, AddIsExact) {
  for_each_tier([](const Elementwise& e) {
    for (std::size_t n : kSizes) {
      auto x = normals(n + 1, n);
      const auto before = x;
      const auto y = normals(n, n + 2);
      e.add(x.data(), y.data(), n);
      for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(x[i], before[i] + y[i]) << n << ' ' << i;
      EXPECT_EQ(x[n], before[n]);
    }
  });
}

TEST(Elementwise, SiluMulMatchesDoubleOverTheWholeRange) {
  // Down to -87 the exponential, and above -87 the result, is a normal number.
  std::vector<float> gate;
  for (double g = -87; g<1000; g += g> 100 ? 1.37 : 0.0117) gate.push_back(static_cast<float>(g));
  for (double g = 1e-38; g < 1; g *= 1.9) {
    gate.push_back(static_cast<float>(g));
    gate.push_back(static_cast<float>(-g));
  }
  const auto up = normals(gate.size(), 5);
  for_each_tier([&](const Elementwise& e) {
    for (std::size_t n : {gate.size(), std::size_t{1}, std::size_t{5}, std::size_t{18}}) {
      std::vector<float> out(n + 1, 9.0F);
      e.silu_mul(gate.data(), up.data(), n, out.data());
      for (std::size_t i = 0; i < n; ++i) {
        const double g = static_cast<double>(gate[i]);
        const double expected = g / (1 + std::exp(-g)) * static_cast<double>(up[i]);
        ASSERT_NEAR(static_cast<double>(out[i]), expected, std::abs(expected) * 1e-6 + 0x1p-149) << "gate " << g;
      }
      EXPECT_EQ(out[n], 9.0F);
    }
  });
}

TEST(Elementwise, SiluMulAtTheEnds) {
  const float infinity = std::numeric_limits<float>::infinity();
  for_each_tier([&](const Elementwise& e) {
    std::vector<float> gate{-200, -1e30F, 0, infinity, std::nanf(""), 1e38F};
    const std::vector<float> up(gate.size(), 1.0F);
    e.silu_mul(gate.data(), up.data(), gate.size(), gate.data());
    EXPECT_EQ(gate[0], 0.0F);
    EXPECT_EQ(gate[1], 0.0F);
    EXPECT_EQ(gate[2], 0.0F);
    EXPECT_EQ(gate[3], infinity);
    EXPECT_TRUE(std::isnan(gate[4]));
    EXPECT_EQ(gate[5], 1e38F);
  });
}

}  // namespace
}  // namespace kvant::kernels
