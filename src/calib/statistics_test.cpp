#include "calib/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "base/random.h"

namespace kvant::calib {
namespace {

constexpr std::size_t kHeadDim = 10, kPairs = 4, kKvHeads = 2, kGroup = 3;  // two channels are not rotated

model::ModelConfig small_config() {
  model::ModelConfig config;
  config.layers = 2;
  config.heads = kKvHeads * kGroup;
  config.kv_heads = kKvHeads;
  config.head_dim = kHeadDim;
  config.rope.dims = 2 * kPairs;
  return config;
}

/// Rows of activations, normal about a mean of each channel, and the angles of their positions.
struct Rows {
  Rows(std::size_t count, double mean, std::uint64_t seed) : rows(count) {
    Random random(seed);
    const auto fill = [&](std::vector<float>& values, std::size_t cols) {
      std::vector<double> means(cols);
      for (double& m : means) m = mean * (1 + random.uniform());
      values.resize(count * cols);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(means[i % cols] + random.normal());
    };
    fill(q, kKvHeads * kGroup * kHeadDim);
    fill(k, kKvHeads * kHeadDim);
    fill(v, kKvHeads * kHeadDim);
    std::vector<std::size_t> positions(count);
    std::iota(positions.begin(), positions.end(), 0);
    angles.resize(count * kPairs * 2);
    kernels::RopeConfig rope;
    rope.dims = 2 * kPairs;
    kernels::rope_angles(kernels::rope_frequencies(rope), positions, angles.data());
  }

  /// Shows rows [first, first + count) to the statistics.
  void show(Statistics& statistics, int layer, std::size_t first, std::size_t count) const {
    const auto part = [&](const std::vector<float>& values) {
      return MatView<const float>(values.data(), rows, values.size() / rows).rows_from(first, count);
    };
    statistics.on_kv(layer, {{}, count, angles.data() + first * kPairs * 2}, part(q), part(k), part(v));
  }

  std::size_t rows;
  std::vector<float> q, k, v, angles;
};

/// The same statistics in two passes over all rows, in long double.
codec::LayerStatistics direct(const Rows& rows) {
  const std::size_t width = kKvHeads * kHeadDim, queries = width * kGroup;
  const auto n = static_cast<long double>(rows.rows);
  std::vector<long double> k(width), rotated(width), v(width), k_energy(kKvHeads * kPairs), q_energy(kKvHeads * kPairs);
  for (std::size_t r = 0; r < rows.rows; ++r) {
    for (std::size_t c = 0; c < width; ++c) {
      k[c] += rows.k[r * width + c] / n;
      v[c] += rows.v[r * width + c] / n;
      const std::size_t in_head = c % kHeadDim, first = c - in_head;
      if (in_head >= 2 * kPairs) {
        rotated[c] += rows.k[r * width + c] / n;
        continue;
      }
      const std::size_t j = in_head % kPairs;
      const long double re = rows.k[r * width + first + j], im = rows.k[r * width + first + j + kPairs];
      const long double cosine = rows.angles[2 * (r * kPairs + j)], sine = rows.angles[2 * (r * kPairs + j) + 1];
      rotated[c] += (in_head < kPairs ? re * cosine - im * sine : re * sine + im * cosine) / n;
    }
  }
  for (std::size_t r = 0; r < rows.rows; ++r) {
    for (std::size_t c = 0; c < width; ++c) {
      if (c % kHeadDim >= 2 * kPairs) continue;
      const long double deviation = rows.k[r * width + c] - k[c];
      k_energy[c / kHeadDim * kPairs + c % kHeadDim % kPairs] += deviation * deviation / n;
    }
    for (std::size_t c = 0; c < queries; ++c) {
      if (c % kHeadDim >= 2 * kPairs) continue;
      const long double q = rows.q[r * queries + c];
      q_energy[c / kHeadDim / kGroup * kPairs + c % kHeadDim % kPairs] += q * q / n;
    }
  }
  const auto floats = [](const std::vector<long double>& x) { return std::vector<float>(x.begin(), x.end()); };
  return {floats(k), floats(rotated), floats(v), floats(k_energy), floats(q_energy)};
}

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected, double error) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], error) << i;
}

class StatisticsOfRows : public testing::TestWithParam<double> {};

TEST_P(StatisticsOfRows, EqualTwoPassesHoweverTheyCome) {
  const double mean = GetParam();
  const model::ModelConfig config = small_config();
  ThreadPool pool(2);
  Statistics statistics(config, pool);
  const Rows rows(700, mean, 5), other(3, 2, 6);
  std::size_t first = 0;
  for (const std::size_t count : {1u, 1u, 2u, 96u, 500u, 100u}) {
    rows.show(statistics, 0, first, count);
    first += count;
  }
  ASSERT_EQ(first, rows.rows);
  EXPECT_EQ(statistics.tokens(), 0u) << "the second layer has seen nothing";
  other.show(statistics, 1, 0, 3);
  EXPECT_EQ(statistics.tokens(), 3u);

  const auto result = statistics.result();
  ASSERT_EQ(result.size(), 2u);
  const codec::LayerStatistics expected = direct(rows);
  // Means and energies are rounded to f32 once; double sums about the mean add far less, sums of squares far from it
  // would add mean^2 * 2^-53 * 700 and more.
  const double most = 4 * mean + 10;
  expect_near(result[0].k_mean, expected.k_mean, most * 0x1p-23);
  expect_near(result[0].k_mean_rotated, expected.k_mean_rotated, most * 0x1p-23);
  expect_near(result[0].v_mean, expected.v_mean, most * 0x1p-23);
  expect_near(result[0].k_energy, expected.k_energy, 4 * 0x1p-23);
  expect_near(result[0].q_energy, expected.q_energy, kGroup * 2 * most * most * 0x1p-23);
  // The deviation has variance 1 in each channel of a pair: 2, to 700 samples' accuracy (5 standard errors).
  for (const float energy : result[0].k_energy) EXPECT_NEAR(energy, 2, 5 * 2 / std::sqrt(700.0));
  expect_near(result[1].k_energy, direct(other).k_energy, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Means, StatisticsOfRows, testing::Values(0.0, 1.0, 1000.0));

TEST(Statistics, DoNotDependOnThreads) {
  const model::ModelConfig config = small_config();
  const Rows rows(50, 3, 9);
  std::vector<std::vector<codec::LayerStatistics>> results;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    Statistics statistics(config, pool);
    for (int layer = 0; layer < 2; ++layer) rows.show(statistics, layer, 0, 50);
    results.push_back(statistics.result());
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST(Statistics, NamesWhatIsNotFinite) {
  const model::ModelConfig config = small_config();
  ThreadPool pool(1);
  const auto expect = [&](std::vector<float> Rows::*member, const std::string& message) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const std::size_t channel : {0u, 1u, 19u}) {
        if (member == &Rows::q && channel == 19) continue;  // not in a pair
        Rows rows(20, 1, 4);
        (rows.*member)[(rows.*member).size() / 20 * 7 + channel] = bad;
        Statistics statistics(config, pool);
        EXPECT_THAT([&] { rows.show(statistics, 1, 0, 20); }, testing::ThrowsMessage<Error>(message));
      }
    }
  };
  expect(&Rows::k, "layer 1: the keys are not finite");
  expect(&Rows::v, "layer 1: the values are not finite");
  expect(&Rows::q, "layer 1: the queries are not finite");
}

}  // namespace
}  // namespace kvant::calib
