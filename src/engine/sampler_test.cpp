#include "engine/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "base/error.h"

namespace kvant::engine {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// How often each token is drawn.
std::map<std::int32_t, int> counts(const SamplerOptions& options, const std::vector<float>& logits, int draws) {
  Sampler sampler(options);
  std::map<std::int32_t, int> result;
  for (int i = 0; i < draws; ++i) ++result[sampler.sample(logits, {})];
  return result;
}

std::vector<float> logs(std::initializer_list<double> probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(Sampler, GreedyTakesTheLargestAndBreaksTiesDownwards) {
  Sampler sampler({});
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2}, {}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 3}, {}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{kNan, -2, kInfinity, -1}, {}), 3);
}

TEST(Sampler, RefusesLogitsWithoutAnyFiniteValue) {
  Sampler sampler({});
  EXPECT_THROW(sampler.sample(std::vector<float>{kNan, -kInfinity}, {}), Error);
}

TEST(Sampler, DrawsInProportionToTheSoftmaxAtItsTemperature) {
  const std::vector<float> logits = logs({0.5, 0.3, 0.2});
  constexpr int kDraws = 40000;
  for (const double temperature : {0.5, 1.0, 2.0}) {
    SCOPED_TRACE(temperature);
    auto drawn = counts({.temperature = temperature, .seed = 7}, logits, kDraws);
    double total = 0;
    std::vector<double> expected;
    for (const float logit : logits) {
      expected.push_back(std::exp(static_cast<double>(logit) / temperature));
      total += expected.back();
    }
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const double p = expected[i] / total;
      const double sigma = std::sqrt(p * (1 - p) / kDraws);
      EXPECT_NEAR(drawn[static_cast<std::int32_t>(i)] / double{kDraws}, p, 4 * sigma);
    }
  }
}

TEST(Sampler, TopKKeepsTheKLikeliest) {
  auto drawn = counts({.temperature = 5, .top_k = 2, .seed = 1}, logs({0.1, 0.4, 0.2, 0.3}), 2000);
  EXPECT_EQ(drawn.size(), 2u);
  EXPECT_TRUE(drawn.contains(1) && drawn.contains(3));
}

TEST(Sampler, TopPKeepsTheShortestRunThatReachesP) {
  const auto logits = logs({0.1, 0.4, 0.2, 0.3});
  EXPECT_EQ(counts({.temperature = 1, .top_p = 0.39, .seed = 1}, logits, 2000).size(), 1u);
  EXPECT_EQ(counts({.temperature = 1, .top_p = 0.41, .seed = 1}, logits, 2000).size(), 2u);
  EXPECT_EQ(counts({.temperature = 1, .top_p = 0.71, .seed = 1}, logits, 2000).size(), 3u);
  EXPECT_EQ(counts({.temperature = 1, .top_p = 0.91, .seed = 1}, logits, 2000).size(), 4u);
}

TEST(Sampler, TopPReachesBeyondTheFirstSortedRun) {
  // 600 equal tokens: half of the probability is exactly 300 of them, the lower ids since all tie.
  const std::vector<float> logits(600, 1.5f);
  auto drawn = counts({.temperature = 1, .top_p = 0.4999, .seed = 3}, logits, 6000);
  EXPECT_EQ(drawn.size(), 300u);
  EXPECT_EQ(drawn.rbegin()->first, 299);
}

TEST(Sampler, MinPDropsWhatIsUnlikelyAgainstTheLikeliest) {
  const auto logits = logs({0.1, 0.4, 0.2, 0.3});
  auto drawn = counts({.temperature = 1, .min_p = 0.6, .seed = 1}, logits, 2000);
  EXPECT_EQ(drawn.size(), 2u);
  EXPECT_TRUE(drawn.contains(1) && drawn.contains(3));
}

TEST(Sampler, RepeatPenaltyLowersRecentTokensOnce) {
  const std::vector<std::int32_t> recent{2, 0, 0, 0};
  SamplerOptions options{.repeat_penalty = 1.5, .repeat_last = 3};
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{3, 1.9f, 0}, recent), 0) << "3 / 1.5 is still above 1.9";
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{3, 2.1f, 0}, recent), 1);
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{0, -1, 0.5f}, recent), 2) << "2 is not among the last three";
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{-1, -1.4f, -9}, recent), 1) << "negative logits are multiplied";
}

TEST(Sampler, TheSeedFixesTheSequence) {
  const std::vector<float> logits(50, 0.0f);
  const auto sequence = [&](std::uint64_t seed) {
    Sampler sampler({.temperature = 1, .seed = seed});
    std::vector<std::int32_t> tokens;
    for (int i = 0; i < 20; ++i) tokens.push_back(sampler.sample(logits, {}));
    return tokens;
  };
  EXPECT_EQ(sequence(5), sequence(5));
  EXPECT_NE(sequence(5), sequence(6));
}

TEST(Sampler, RefusesOptionsOutOfRangeByName) {
  const auto message = [](const SamplerOptions& options) -> std::string {
    try {
      Sampler{options};
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      return error.what();
    }
    return "accepted";
  };
  EXPECT_THAT(message({.temperature = -0.5}), testing::HasSubstr("temperature is -0.5"));
  EXPECT_THAT(message({.temperature = static_cast<double>(kNan)}), testing::HasSubstr("temperature"));
  EXPECT_THAT(message({.top_k = -1}), testing::HasSubstr("top-k is -1"));
  EXPECT_THAT(message({.top_p = 0}), testing::HasSubstr("top-p is 0"));
  EXPECT_THAT(message({.top_p = 1.5}), testing::HasSubstr("top-p is 1.5"));
  EXPECT_THAT(message({.min_p = 2}), testing::HasSubstr("min-p is 2"));
  EXPECT_THAT(message({.repeat_penalty = 0}), testing::HasSubstr("repeat penalty is 0"));
  EXPECT_THAT(message({.repeat_last = -3}), testing::HasSubstr("repeat-last is -3"));
}

}  // namespace
}  // namespace kvant::engine
