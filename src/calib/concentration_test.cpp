#include "calib/concentration.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "base/random.h"
#include "calib/stats_csv.h"

namespace kvant::calib {
namespace {

constexpr std::size_t kDims = 16, kPairs = kDims / 2, kTokens = 20000;

/// Keys of one layer and head, with a bias, at positions that turn every pair through all angles evenly.
struct Keys {
  std::vector<float> bias = std::vector<float>(kDims);
  std::vector<std::vector<double>> free, rotated;  // without the bias; with it, after RoPE
  codec::Plan plan;

  Keys() {
    Random random(11);
    bias[3] = 20;
    bias[9] = -7;
    std::vector<double> deviation(kDims);
    for (std::size_t i = 0; i < kDims; ++i) deviation[i] = 0.5 + 2 * random.uniform();
    for (std::size_t t = 0; t < kTokens; ++t) {
      std::vector<double> x(kDims), y(kDims);
      for (std::size_t i = 0; i < kDims; ++i) x[i] = deviation[i] * random.normal();
      for (std::size_t j = 0; j < kPairs; ++j) {
        const double angle = 2 * 3.14159265358979 * random.uniform(), c = std::cos(angle), s = std::sin(angle);
        const double a = x[j] + bias[j], b = x[j + kPairs] + bias[j + kPairs];
        y[j] = a * c - b * s;
        y[j + kPairs] = a * s + b * c;
      }
      free.push_back(std::move(x));
      rotated.push_back(std::move(y));
    }
    fill_plan();
  }

  void fill_plan() {
    plan.model.layers = plan.model.kv_heads = 1;
    plan.model.head_dim = plan.model.rope_dims = kDims;
    codec::LayerStatistics& s = plan.layers.emplace_back();
    s.k_mean.resize(kDims);
    s.k_mean_rotated.resize(kDims);
    s.k_moment.resize(codec::packed_size(kDims));
    s.q_moment.assign(codec::packed_size(kDims), 0.0F);
    for (std::size_t i = 0; i < kDims; ++i) {
      double mean = 0, square = 0, rotated_mean = 0;
      for (std::size_t t = 0; t < kTokens; ++t) {
        mean += free[t][i] / kTokens;
        square += free[t][i] * free[t][i] / kTokens;
        rotated_mean += rotated[t][i] / kTokens;
      }
      s.k_mean[i] = static_cast<float>(mean + bias[i]);
      s.k_mean_rotated[i] = static_cast<float>(rotated_mean);
      s.k_moment[codec::packed_size(i + 1) - 1] = static_cast<float>(square - mean * mean);
      s.q_moment[codec::packed_size(i + 1) - 1] = static_cast<float>(i + 1);
    }
  }
};

double strongest_quarter(std::vector<double> channels) {
  std::sort(channels.begin(), channels.end(), std::greater<>());
  return 100 * std::accumulate(channels.begin(), channels.begin() + kDims / 4, 0.0) /
         std::accumulate(channels.begin(), channels.end(), 0.0);
}

TEST(Concentration, IsThatOfTheKeysThemselves) {
  const Keys keys;
  std::vector<double> raw(kDims), centred(kDims), pooled(kDims);
  for (std::size_t i = 0; i < kDims; ++i) {
    double sum = 0, squares = 0, pooled_sum = 0, pooled_squares = 0;
    const auto pool = [&](double x) {
      pooled_sum += x / (3.0 * kTokens);
      pooled_squares += x * x / (3.0 * kTokens);
    };
    for (std::size_t t = 0; t < kTokens; ++t) {
      const double x = keys.free[t][i], y = keys.rotated[t][i];
      raw[i] += y * y / kTokens;
      sum += x / kTokens;
      squares += x * x / kTokens;
      pool(x);
      pool(x + keys.bias[i]);
      pool(y);
    }
    centred[i] = squares - sum * sum;
    pooled[i] = pooled_squares - pooled_sum * pooled_sum;
  }
  const Concentration share = concentration(keys.plan, 0, keys.bias);
  // 20,000 tokens scatter by about 1/sqrt(10,000) in each second moment.
  EXPECT_NEAR(share.raw, strongest_quarter(raw), 1.0);
  EXPECT_NEAR(share.centred, strongest_quarter(centred), 0.01);
  EXPECT_NEAR(share.pooled, strongest_quarter(pooled), 1.0);
  EXPECT_GT(share.raw, 70);  // the bias
  EXPECT_LT(share.centred, 60);
}

TEST(Concentration, WithoutBiasTheFirstTwoStreamsAreOne) {
  const Keys keys;
  const std::vector<float> none(kDims);
  EXPECT_EQ(concentration(keys.plan, 0, none).pooled, concentration(keys.plan, 0, {}).pooled);
  EXPECT_NE(concentration(keys.plan, 0, keys.bias).pooled, concentration(keys.plan, 0, {}).pooled);
}

TEST(StatisticsCsv, HasARowForEachChannel) {
  Keys keys;
  const std::string text = statistics_csv(keys.plan);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1 + static_cast<std::ptrdiff_t>(kDims));
  EXPECT_TRUE(text.starts_with("layer,head,channel,mean,std,second_moment,query_weight,rank,part\n0,0,0,"));
  EXPECT_TRUE(text.ends_with(",\n")) << "no part without codes";
  // Channel 15 has the greatest weight but one of variance; ranks are a permutation.
  std::vector<std::size_t> ranks;
  for (std::size_t at = text.find('\n') + 1; at < text.size(); at = text.find('\n', at) + 1) {
    const std::size_t end = text.rfind(',', text.find('\n', at)), begin = text.rfind(',', end - 1) + 1;
    ranks.push_back(std::stoul(text.substr(begin, end - begin)));
  }
  std::sort(ranks.begin(), ranks.end());
  for (std::size_t i = 0; i < ranks.size(); ++i) EXPECT_EQ(ranks[i], i);
}

TEST(StatisticsCsv, NamesTheStrongestPart) {
  Keys keys;
  codec::HeadCode code;
  code.transform.resize(32 * kDims);
  for (std::size_t i = 0; i < kDims; ++i) code.transform[(i < 4 ? i : i + 12) * kDims + i] = to_bf16(1);
  code.parts = {{16, codec::QuantizerKind::lm, 4, codec::ScaleFormat::f16},
                {16, codec::QuantizerKind::lm, 2, codec::ScaleFormat::f16}};
  keys.plan.codes.push_back({{code}, {}});
  const std::string text = statistics_csv(keys.plan);
  EXPECT_TRUE(text.ends_with(",1\n"));
  EXPECT_NE(text.find(",0\n0,0,1,"), std::string::npos) << "channel 0 is in part 0";
}

}  // namespace
}  // namespace kvant::calib
