#include "eval/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"

namespace kvant::eval {
namespace {

TokenScore compare(const std::vector<float>& reference, const std::vector<float>& other, std::size_t target) {
  return compare_rows(reference, normalize(reference), other, target);
}

/// Logits of probabilities, moved by a constant that must not matter.
std::vector<float> logits_of(std::initializer_list<double> probabilities, double shift) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + shift));
  return logits;
}

TEST(CompareRows, ThreeSymbolsByHand) {
  const TokenScore score = compare(logits_of({0.5, 0.25, 0.25}, 3), logits_of({0.25, 0.5, 0.25}, -70), 1);
  // 0.5 ln(0.5/0.25) + 0.25 ln(0.25/0.5) + 0 = 0.25 ln 2. Logits near 70 in f32 are good to 4e-6.
  EXPECT_NEAR(score.divergence, 0.25 * std::log(2), 1e-5);
  EXPECT_NEAR(score.loss_change, -std::log(2), 1e-5);
  EXPECT_NEAR(score.probability_change, 0.25, 1e-5);
  EXPECT_FALSE(score.same_best);
  // The other way round: 0.25 ln(1/2) + 0.5 ln 2 again; against the uniform it is not symmetric.
  const std::vector<float> uniform{0, 0, 0}, skewed = logits_of({0.9, 0.09, 0.01}, 0);
  const double third = 1.0 / 3,
               third_of_skewed = std::log(third / 0.9) + std::log(third / 0.09) + std::log(third / 0.01);
  EXPECT_NEAR(compare(uniform, skewed, 0).divergence, third * third_of_skewed, 1e-6);
  EXPECT_NEAR(compare(skewed, uniform, 0).divergence,
              0.9 * std::log(2.7) + 0.09 * std::log(0.27) + 0.01 * std::log(0.03), 1e-6);
  EXPECT_TRUE(compare(skewed, uniform, 0).same_best) << "the first of equals";
}

TEST(CompareRows, EqualRowsGiveExactlyZero) {
  Random random(3);
  std::vector<float> logits(1000);
  for (float& logit : logits) logit = static_cast<float>(8 * random.normal());
  const TokenScore score = compare(logits, logits, 17);
  EXPECT_EQ(score.divergence, 0);
  EXPECT_EQ(score.loss_change, 0);
  EXPECT_EQ(score.probability_change, 0);
  EXPECT_TRUE(score.same_best);
}

/// For a small change d of the logits, KLD = Var_p(d) / 2 up to third order.
TEST(CompareRows, SmallChangesGiveHalfTheVariance) {
  Random random(4);
  std::vector<float> reference(500), other(500);
  std::vector<double> p(500), d(500);
  double total = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    reference[i] = static_cast<float>(2 * random.normal());
    other[i] = reference[i] + static_cast<float>(1e-3 * random.normal());
    d[i] = static_cast<double>(other[i]) - static_cast<double>(reference[i]);
    total += p[i] = std::exp(static_cast<double>(reference[i]));
  }
  double mean = 0, square = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    mean += p[i] / total * d[i];
    square += p[i] / total * d[i] * d[i];
  }
  const double expected = (square - mean * mean) / 2;
  EXPECT_NEAR(compare(reference, other, 0).divergence, expected, expected * 5e-3);
}

TEST(CompareRows, ExtremeAndBadLogits) {
  const TokenScore far = compare({1000, -1000, 0}, {-1000, 1000, 0}, 0);
  EXPECT_EQ(far.divergence, 2000);
  EXPECT_EQ(far.loss_change, 2000);
  EXPECT_EQ(far.probability_change, -1);
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(compare({0, 1, 2}, {0, kNan, 1}, 0).divergence));
  EXPECT_FALSE(std::isfinite(normalize(std::vector<float>{0, std::numeric_limits<float>::infinity()}).log_sum));
}

TEST(Quantile, IsLinearBetweenNeighbours) {
  const std::vector<float> values{0, 1, 4, 9, 16};
  EXPECT_EQ(quantile(values, 0), 0);
  EXPECT_EQ(quantile(values, 0.5), 4);
  EXPECT_DOUBLE_EQ(quantile(values, 0.9), 9 + 0.6 * 7);
  EXPECT_EQ(quantile(values, 1), 16);
  EXPECT_EQ(quantile(std::vector<float>{7}, 0.99), 7);
}

TEST(Wilson, KnownValues) {
  // 8 of 10: centre (0.8 + z2/20) / (1 + z2/10) = 0.716742, half width 0.226578.
  const Interval range = wilson(8, 10);
  EXPECT_NEAR(range.low, 0.490162, 1e-5);
  EXPECT_NEAR(range.high, 0.943318, 1e-5);
  for (std::size_t trials = 1; trials < 100; ++trials) {
    EXPECT_EQ(wilson(trials, trials).high, 1) << trials;
    EXPECT_EQ(wilson(0, trials).low, 0) << trials;
    EXPECT_GT(wilson(1, trials).low, 0) << trials;
  }
  EXPECT_NEAR(wilson(10, 10).low, 10 / (10 + 3.841459), 1e-6);
  EXPECT_EQ(wilson(0, 0).low, 0);
}

TEST(StandardError, OfSingleValuesIsTheTextbooks) {
  std::vector<Block> blocks;
  for (const double value : {1.0, 2.0, 4.0, 9.0}) blocks.push_back({value, 1});
  EXPECT_DOUBLE_EQ(standard_error(blocks), std::sqrt((9 + 4 + 0 + 25) / 3.0 / 4));
  EXPECT_EQ(standard_error(std::span(blocks).first(1)), 0);
}

TEST(StandardError, BlocksShowWhatNeighboursShare) {
  Random random(5);
  std::vector<Block> blocks, tokens;
  for (int i = 0; i < 4000; ++i) {
    const double shared = random.normal();
    Block& block = blocks.emplace_back(Block{0, 16});
    for (int j = 0; j < 16; ++j) {
      const double value = shared + random.normal();
      block.sum += value;
      tokens.push_back({value, 1});
    }
  }
  // Means of blocks have variance 1 + 1/16; tokens alone would make it 2/16. 4,000 blocks: known within 1.1 % (1
  // sigma).
  EXPECT_NEAR(standard_error(blocks), std::sqrt(17.0 / 16 / 4000), 0.05 * std::sqrt(17.0 / 16 / 4000));
  EXPECT_NEAR(standard_error(tokens), std::sqrt(2.0 / 64000), 0.05 * std::sqrt(2.0 / 64000));
}

TEST(Bootstrap, IsDeterministicAndNormalForManyBlocks) {
  Random random(6);
  std::vector<Block> blocks;
  for (int i = 0; i < 400; ++i) blocks.push_back({3 + random.normal(), 1});
  const Interval a = bootstrap_mean(blocks, 2000, 1), b = bootstrap_mean(blocks, 2000, 1);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_NE(a.low, bootstrap_mean(blocks, 2000, 2).low);
  // A quantile at 2.5 % of 2,000 draws is known within 0.06 standard errors (1 sigma).
  EXPECT_NEAR((a.high - a.low) / (2 * 1.96 * standard_error(blocks)), 1, 0.12);
}

/// Windows of correlated losses around a known mean: the interval of about 95 % of all samples holds it.
TEST(Summarize, IntervalCoversTheTrueRatio) {
  constexpr std::size_t kWindows = 40, kLength = 30, kTrials = 200;
  constexpr double kTrue = 0.05;
  Random random(7);
  int covered = 0;
  for (std::size_t trial = 0; trial < kTrials; ++trial) {
    std::vector<TokenScore> scores(kWindows * kLength);
    double shared = 0;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (i % kLength == 0) shared = 0.1 * random.normal();
      scores[i].loss_change = static_cast<float>(kTrue + shared + 0.2 * random.normal());
    }
    const Summary summary = summarize(scores, kWindows, 0, kLength);
    EXPECT_LT(summary.ppl_ratio_range.low, summary.ppl_ratio);
    EXPECT_GT(summary.ppl_ratio_range.high, summary.ppl_ratio);
    if (summary.ppl_ratio_range.low < std::exp(kTrue) && std::exp(kTrue) < summary.ppl_ratio_range.high) ++covered;
  }
  // Binomial: 0.95 +- 0.015 (1 sigma), less a few percent that the bootstrap of 40 blocks falls short.
  EXPECT_GT(covered, 0.88 * kTrials);
  EXPECT_LT(covered, kTrials);
}

TEST(Summarize, TakesTheRowsAskedForOfEachWindow) {
  std::vector<TokenScore> scores;
  for (int w = 0; w < 3; ++w) {
    for (int r = 0; r < 10; ++r) {
      scores.push_back({static_cast<float>(r < 6 ? 100 : r), static_cast<float>(0.5 * r),
                        static_cast<float>(w == 0 ? 0.1 : -0.2), r == 9});
    }
  }
  const Summary summary = summarize(scores, 3, 6, 10);
  EXPECT_EQ(summary.tokens, 12u);
  EXPECT_EQ(summary.kld_mean, 7.5);
  EXPECT_EQ(summary.kld_median, 7.5);
  EXPECT_EQ(summary.kld_max, 9);
  EXPECT_EQ(summary.top1, 0.25);
  EXPECT_NEAR(summary.rms_probability, std::sqrt((0.01 + 0.04 + 0.04) / 3), 1e-7);
  EXPECT_DOUBLE_EQ(summary.log_ppl_ratio, 3.75);
  EXPECT_DOUBLE_EQ(summary.ppl_ratio, std::exp(3.75));
  EXPECT_EQ(summary.top1_range.low, wilson(3, 12).low);
  EXPECT_GT(summary.kld_se, 0);
  EXPECT_EQ(summarize(scores, 3, 0, 6).kld_mean, 100);
  EXPECT_EQ(summarize(scores, 3, 0, 6).kld_se, 0);
}

TEST(Summarize, OneTokenHasNoErrorBars) {
  const std::vector<TokenScore> scores{{0.5f, 0.25f, 0, true}};
  const Summary summary = summarize(scores, 1, 0, 1);
  EXPECT_EQ(summary.tokens, 1u);
  EXPECT_EQ(summary.kld_p999, 0.5);
  EXPECT_EQ(summary.kld_se, 0);
  EXPECT_EQ(summary.ppl_ratio_range.low, summary.ppl_ratio);
  EXPECT_EQ(summary.ppl_ratio_range.high, summary.ppl_ratio);
}

}  // namespace
}  // namespace kvant::eval
