#include "engine/log_probabilities.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace kvant::engine {
namespace {

TEST(LogProbabilities, AreThoseOfTheSoftmax) {
  const std::vector<float> logits{std::log(1.0f), std::log(5.0f), std::log(2.0f), std::log(2.0f)};
  const auto result = log_probabilities(logits, 0, 3);
  EXPECT_EQ(result.chosen.token, 0);
  EXPECT_NEAR(result.chosen.log_probability, std::log(0.1), 1e-6);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[0].token, 1);
  EXPECT_NEAR(result.top[0].log_probability, std::log(0.5), 1e-6);
  EXPECT_EQ(result.top[1].token, 2) << "of equals the lower id comes first";
  EXPECT_EQ(result.top[2].token, 3);
}

TEST(LogProbabilities, LargeLogitsNeitherOverflowNorVanish) {
  const std::vector<float> logits{300, 301, -std::numeric_limits<float>::infinity()};
  const auto result = log_probabilities(logits, 1, 9);
  EXPECT_NEAR(result.chosen.log_probability, -std::log1p(std::exp(-1.0)), 1e-6);
  ASSERT_EQ(result.top.size(), 3u);
  EXPECT_EQ(result.top[2].log_probability, -std::numeric_limits<float>::infinity());
}

}  // namespace
}  // namespace kvant::engine
