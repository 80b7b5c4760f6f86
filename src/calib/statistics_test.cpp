#include "calib/statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <complex>
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

/// Moments of the columns of one head, [dims] for each row.
using Head = std::vector<std::vector<long double>>;

/// Mean over the rows of the products of channels about `mean`, as a packed triangle.
std::vector<long double> moment_of(const Head& x, const std::vector<long double>& mean) {
  std::vector<long double> packed;
  for (std::size_t i = 0; i < mean.size(); ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      long double sum = 0;
      for (const auto& row : x) sum += (row[i] - mean[i]) * (row[j] - mean[j]);
      packed.push_back(sum / static_cast<long double>(x.size()));
    }
  }
  return packed;
}

std::vector<long double> mean_of(const Head& x) {
  std::vector<long double> mean(x.front().size());
  for (const auto& row : x) {
    for (std::size_t c = 0; c < mean.size(); ++c) mean[c] += row[c] / static_cast<long double>(x.size());
  }
  return mean;
}

/// The same statistics in two passes over all rows, in long double.
codec::LayerStatistics direct(const Rows& rows) {
  const auto head_of = [&](const std::vector<float>& values, std::size_t head, int turn = 0) {
    Head x(rows.rows);
    for (std::size_t r = 0; r < rows.rows; ++r) {
      const auto first = values.begin() + static_cast<std::ptrdiff_t>(r * values.size() / rows.rows + head * kHeadDim);
      x[r].assign(first, first + kHeadDim);
      for (std::size_t j = 0; turn != 0 && j < kPairs; ++j) {
        const std::complex<long double> angle(rows.angles[2 * (r * kPairs + j)], rows.angles[2 * (r * kPairs + j) + 1]);
        const std::complex<long double> pair(x[r][j], x[r][j + kPairs]);
        const auto turned = turn > 0 ? pair * angle : pair / angle;
        x[r][j] = turned.real();
        x[r][j + kPairs] = turned.imag();
      }
    }
    return x;
  };
  codec::LayerStatistics s;
  const auto append = [](std::vector<float>& to, const std::vector<long double>& values) {
    to.insert(to.end(), values.begin(), values.end());
  };
  for (std::size_t head = 0; head < kKvHeads; ++head) {
    const Head k = head_of(rows.k, head), v = head_of(rows.v, head);
    append(s.k_mean, mean_of(k));
    append(s.k_mean_rotated, mean_of(head_of(rows.k, head, 1)));
    append(s.v_mean, mean_of(v));
    append(s.k_moment, moment_of(k, mean_of(k)));
    append(s.v_moment, moment_of(v, mean_of(v)));
    std::vector<long double> q(codec::packed_size(kHeadDim));
    for (std::size_t g = 0; g < kGroup; ++g) {
      const auto added = moment_of(head_of(rows.q, head * kGroup + g, -1), std::vector<long double>(kHeadDim));
      for (std::size_t i = 0; i < q.size(); ++i) q[i] += added[i];
    }
    append(s.q_moment, q);
  }
  return s;
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
  // Results are rounded to f32 once, from |mean| + 5 at most; double sums about the mean add far less, sums of squares
  // far from it would add mean^2 * 2^-53 * 700 and more. The queries' moments are about zero and of the size of their
  // squares; angles are rounded to f32.
  const double most = 2 * mean + 5;
  expect_near(result[0].k_mean, expected.k_mean, most * 0x1p-23);
  expect_near(result[0].k_mean_rotated, expected.k_mean_rotated, most * 0x1p-22);
  expect_near(result[0].v_mean, expected.v_mean, most * 0x1p-23);
  expect_near(result[0].k_moment, expected.k_moment, 4 * 0x1p-24);
  expect_near(result[0].v_moment, expected.v_moment, 4 * 0x1p-24);
  expect_near(result[0].q_moment, expected.q_moment, kGroup * 2 * most * most * 0x1p-22);
  // Channels deviate independently with variance 1, to 700 samples' accuracy: 5 standard errors, which are sqrt(2 /
  // 700) on the diagonal and sqrt(1 / 700) off it.
  for (const auto* moment : {&result[0].k_moment, &result[0].v_moment}) {
    for (std::size_t i = 0; i < kHeadDim; ++i) {
      for (std::size_t j = 0; j <= i; ++j) {
        EXPECT_NEAR((*moment)[codec::packed_size(i) + j], i == j, 5 * std::sqrt((i == j ? 2 : 1) / 700.0))
            << i << ' ' << j;
      }
    }
  }
  expect_near(result[1].k_moment, direct(other).k_moment, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Means, StatisticsOfRows, testing::Values(0.0, 1.0, 1000.0));

TEST(Statistics, DoNotDependOnThreads) {
  const model::ModelConfig config = small_config();
  const Rows rows(300, 3, 9);
  std::vector<std::vector<codec::LayerStatistics>> results;
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    Statistics statistics(config, pool);
    for (int layer = 0; layer < 2; ++layer) rows.show(statistics, layer, 0, 300);
    results.push_back(statistics.result());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

/// YaRN's attention factor is part of the angles; queries before RoPE are without it.
TEST(Statistics, QueriesAreWithoutTheAttentionFactor) {
  model::ModelConfig config = small_config();
  config.rope.attention_factor = 1.5;
  config.rope.scaling = kernels::RopeConfig::Scaling::yarn;
  config.rope.original_context = 64;
  config.rope.factor = 4;
  const auto frequencies = kernels::rope_frequencies(config.rope);
  ASSERT_GT(frequencies.magnitude, 1.5);
  Rows rows(40, 1, 3);
  const auto before = rows.q;
  std::vector<std::size_t> positions(rows.rows);
  std::iota(positions.begin(), positions.end(), 0);
  kernels::rope_angles(frequencies, positions, rows.angles.data());
  for (std::size_t i = 0; i < rows.q.size(); i += kHeadDim) {
    const std::size_t row = i / (rows.q.size() / rows.rows);
    kernels::rope_apply(rows.angles.data() + row * kPairs * 2, kPairs, rows.q.data() + i);
  }
  ThreadPool pool(1);
  Statistics statistics(config, pool);
  rows.show(statistics, 0, 0, rows.rows);
  const std::vector<float> moment = statistics.result().front().q_moment;
  double sum = 0, expected = 0;
  for (const float q : before) expected += static_cast<double>(q) * q / static_cast<double>(rows.rows);
  for (std::size_t head = 0; head < kKvHeads; ++head) {
    for (std::size_t c = 1; c <= kHeadDim; ++c) {
      sum += moment[head * codec::packed_size(kHeadDim) + codec::packed_size(c) - 1];
    }
  }
  EXPECT_NEAR(sum, expected, expected * 0x1p-21);
}

TEST(Statistics, NamesWhatIsNotFinite) {
  const model::ModelConfig config = small_config();
  ThreadPool pool(1);
  const auto expect = [&](std::vector<float> Rows::*member, const std::string& message) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      for (const std::size_t channel : {0u, 1u, 19u}) {
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
