#include "calib/rate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"
#include "codec/vector_codec.h"

namespace kvant::calib {
namespace {

using codec::CodePart;
using codec::QuantizerKind;
using codec::ScaleFormat;

/// The share of energy that codes lose on random directions.
double simulated(const CodePart& part, int vectors) {
  const codec::Quantizer q = codec::make_quantizer(part.kind, part.dims, part.bits);
  Random random(7);
  std::vector<float> x(part.dims);
  std::vector<std::uint8_t> codes(part.dims);
  std::vector<double> y(part.dims);
  double lost = 0, all = 0;
  for (int i = 0; i < vectors; ++i) {
    for (float& v : x) v = static_cast<float>(random.normal());
    std::uint16_t scale = 0;
    EXPECT_TRUE(codec::encode_vector(q, part.norm, x, codes, scale));
    codec::decode_vector(q, part.norm, codes, scale, y);
    for (std::size_t j = 0; j < x.size(); ++j) {
      all += static_cast<double>(x[j]) * x[j];
      lost += (y[j] - x[j]) * (y[j] - x[j]);
    }
  }
  return lost / all;
}

TEST(Rate, DistortionIsWhatTheCodesLose) {
  for (const std::size_t dims : {32, 64, 128}) {
    for (int bits = 1; bits <= 6; ++bits) {
      const CodePart part{dims, QuantizerKind::lm, bits, ScaleFormat::f16};
      // The least-squares scale takes the error along the vector away: some 1 to 2.4 of n dims' worth.
      const double ratio = simulated(part, 4000) / relative_distortion(part), n = static_cast<double>(dims);
      EXPECT_LT(ratio, 1.005) << dims << " dims, " << bits << " bits";
      EXPECT_GT(ratio, 1 - 2.6 / n - 0.005) << dims << " dims, " << bits << " bits";
    }
    for (const int bits : {7, 8}) {  // the peak of a vector is not that of the mean vector
      const CodePart part{dims, QuantizerKind::uni, bits, ScaleFormat::f16};
      EXPECT_NEAR(simulated(part, 2000) / relative_distortion(part), 1, 0.12) << dims << " dims, " << bits << " bits";
    }
  }
  EXPECT_EQ(relative_distortion({64, QuantizerKind::lm, 0, ScaleFormat::f16}), 1);
}

TEST(Rate, PartsOfSeveralGroupsLoseTheirMean) {
  const auto of = [](std::size_t dims) { return relative_distortion({dims, QuantizerKind::lm, 3, ScaleFormat::f16}); };
  EXPECT_NEAR(of(96), (2 * of(64) + of(32)) / 3, 1e-12);
}

std::vector<double> falling(std::size_t n, double decay) {
  std::vector<double> energies(n);
  for (std::size_t i = 0; i < n; ++i) energies[i] = std::exp(-decay * static_cast<double>(i));
  return energies;
}

TEST(Rate, OptionsAreConvex) {
  const DistortionTable table(128);
  for (const double decay : {0.0, 0.01, 0.05, 0.2}) {
    const std::vector<CodeOption> options = code_options(table, codec::PageSide::key, falling(128, decay));
    ASSERT_GT(options.size(), 5U);
    double slope = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < options.size(); ++i) {
      EXPECT_EQ(options[i].bytes, codec::page_bytes(options[i].parts));
      if (i == 0) continue;
      ASSERT_GT(options[i].bytes, options[i - 1].bytes);
      const double next =
          (options[i].cost - options[i - 1].cost) / static_cast<double>(options[i].bytes - options[i - 1].bytes);
      EXPECT_LT(next, 0);
      EXPECT_GT(next, slope);
      slope = next;
    }
  }
}

/// What the hull costs at so many bytes, between its options.
double hull_cost(const std::vector<CodeOption>& options, double bytes) {
  for (std::size_t i = 1; i < options.size(); ++i) {
    const double low = static_cast<double>(options[i - 1].bytes), high = static_cast<double>(options[i].bytes);
    if (bytes <= high) {
      const double at = std::max(0.0, (bytes - low) / (high - low));
      return (1 - at) * options[i - 1].cost + at * options[i].cost;
    }
  }
  return options.back().cost;
}

TEST(Rate, NoCodesOfEqualBytesAreBelowTheHull) {
  const DistortionTable table(128);
  const std::vector<double> energies = falling(128, 0.04);
  const std::vector<CodeOption> options = code_options(table, codec::PageSide::key, energies);
  double upper = 0, lower = 0;
  for (std::size_t i = 0; i < 128; ++i) (i < 64 ? upper : lower) += std::sqrt(energies[i]);
  for (int a = 1; a <= 6; ++a) {
    const CodePart whole{128, QuantizerKind::lm, a, ScaleFormat::f16};
    const double cost = uniform_cost(table, energies, a);
    EXPECT_NEAR(cost, relative_distortion(whole) * (upper + lower) * (upper + lower) / 128, 1e-9 * cost);
    EXPECT_GE(cost * (1 + 1e-9), hull_cost(options, static_cast<double>(codec::page_bytes(std::vector{whole}))));
    for (int b = 1; b < a; ++b) {
      const std::vector<CodePart> parts{{64, QuantizerKind::lm, a, ScaleFormat::f16},
                                        {64, QuantizerKind::lm, b, ScaleFormat::f16}};
      const double both =
          relative_distortion(parts[0]) * upper * upper / 64 + relative_distortion(parts[1]) * lower * lower / 64;
      EXPECT_GE(both * (1 + 1e-9), hull_cost(options, static_cast<double>(codec::page_bytes(parts))));
    }
  }
}

TEST(Rate, SteepEnergiesLeaveDimsOut) {
  const DistortionTable table(128);
  const auto drops = [&](double decay) {
    const auto options = code_options(table, codec::PageSide::key, falling(128, decay));
    return std::count_if(options.begin(), options.end(), [](const CodeOption& o) { return o.parts.back().bits == 0; });
  };
  EXPECT_GT(drops(0.5), drops(0.0));
  // Equal energies: at 4 bits and more, to leave dims out costs more than a bit less on them.
  for (const CodeOption& option : code_options(table, codec::PageSide::key, falling(128, 0))) {
    if (option.bytes > 64 * 4 * 128 / 8) {
      EXPECT_GT(option.parts.back().bits, 0);
    }
  }
}

TEST(Rate, ValuesTakeFastCodesOnly) {
  const DistortionTable table(128);
  for (const double decay : {0.02, 0.1, 0.4}) {
    for (const CodeOption& option : code_options(table, codec::PageSide::value, falling(128, decay))) {
      for (const CodePart& part : option.parts) EXPECT_TRUE(part.bits % 2 == 0 || part.dims % 64 == 0);
    }
  }
}

}  // namespace
}  // namespace kvant::calib
