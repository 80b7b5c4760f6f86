/// Caches of the stand-in model against its reference cache.
#include "eval/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <utility>

#include "base/error.h"
#include "base/file_io.h"
#include "eval/perplexity.h"
#include "integration/test_models.h"

namespace kvant::eval {
namespace {

using integration::own_model;

constexpr std::size_t kContext = 192, kChunks = 3;

engine::Engine open_model(kernels::Precision precision) {
  return engine::Engine(own_model("standin-a-q8_0.gguf").string(),
                        {.threads = 2, .isa = active_isa(), .precision = precision});
}

std::vector<engine::Token> recall(engine::Engine& engine) {
  return engine.tokenizer().encode(read_text(own_model("recall.txt").string()), false);
}

CompareOptions options(std::string_view caches, std::string_view reference = "f16") {
  const CachePair pair{codec::parse_cache_spec(reference), codec::parse_cache_spec(reference)};
  return {.context = kContext, .chunks = kChunks, .reference = pair, .caches = parse_cache_list(caches)};
}

TEST(Compare, TheReferenceAgainstItselfIsZero) {
  engine::Engine engine = open_model(kernels::Precision::reference);
  CompareOptions settings = options("f16");
  settings.noise_floor = true;
  const CompareResult result = compare(engine, recall(engine), settings);
  ASSERT_EQ(result.caches.size(), 1u);
  ASSERT_TRUE(result.noise_floor.has_value());
  for (const CacheResult& same : {result.caches[0], *result.noise_floor}) {
    EXPECT_EQ(same.all.tokens, kChunks * (kContext / 2 - 1));
    EXPECT_EQ(same.all.kld_max, 0);
    EXPECT_EQ(same.all.top1, 1);
    EXPECT_EQ(same.all.ppl_ratio_range.low, 1);
    EXPECT_EQ(same.all.ppl_ratio_range.high, 1);
    EXPECT_EQ(same.perplexity, result.perplexity);
  }
}

TEST(Compare, LayersThatDoNotDifferAreNotRunAgain) {
  engine::Engine engine = open_model(kernels::Precision::fast);
  const auto text = recall(engine);
  CompareOptions settings = options("f16,q4_0,q4_0,q4_0");
  settings.context = 1200;  // steps of 512 rows before the scored ones
  settings.chunks = 1;
  const double whole = compare(engine, text, settings).caches[1].all.kld_mean;
  settings.differs_from = {3, 0, 1, 5};
  const CompareResult result = compare(engine, text, settings);
  EXPECT_EQ(result.caches[0].all.kld_max, 0);
  EXPECT_EQ(result.caches[1].all.kld_mean, whole);
  // The fewer layers are in q4_0, the less is lost.
  EXPECT_LT(result.caches[2].all.kld_mean, whole);
  EXPECT_LT(result.caches[3].all.kld_mean, result.caches[2].all.kld_mean);
  EXPECT_GT(result.caches[3].all.kld_mean, 0);
}

TEST(Compare, OrdersCachesAndHasThePerplexityOfEach) {
  engine::Engine engine = open_model(kernels::Precision::reference);
  const auto text = recall(engine);
  const CompareResult result = compare(engine, text, options("f16,q8_0,q4_0/q8_0", "f32"));
  ASSERT_EQ(result.caches.size(), 3u);
  const CacheResult &f16 = result.caches[0], &q8 = result.caches[1], &q4 = result.caches[2];
  EXPECT_GT(f16.all.kld_mean, 0);
  EXPECT_GT(q8.all.kld_mean, 10 * f16.all.kld_mean);
  EXPECT_GT(q4.all.kld_mean, 10 * q8.all.kld_mean);
  EXPECT_GT(f16.all.top1, q4.all.top1);
  EXPECT_GT(q4.all.ppl_ratio_range.low, 1);
  EXPECT_LT(q4.usage.bytes(), f16.usage.bytes());
  for (const CacheResult& row : result.caches) {
    SCOPED_TRACE(to_string(row.cache));
    const auto alone =
        perplexity(engine, text, {.context = kContext, .chunks = kChunks, .k = row.cache.k, .v = row.cache.v});
    EXPECT_EQ(alone.tokens, row.all.tokens);
    EXPECT_EQ(alone.usage.bytes(), row.usage.bytes());
    // Changes of loss are kept in f32: 2^-24 of at most 20 nats.
    EXPECT_NEAR(row.perplexity / alone.perplexity, 1, 2e-6);
  }
  const auto reference = perplexity(engine, text,
                                    {.context = kContext,
                                     .chunks = kChunks,
                                     .k = codec::parse_cache_spec("f32"),
                                     .v = codec::parse_cache_spec("f32")});
  EXPECT_NEAR(result.perplexity / reference.perplexity, 1, 1e-12);
}

/// Softmax of all logits of a window's scored rows, run at once with a cache of their own.
std::vector<std::vector<double>> distributions(engine::Engine& engine, std::span<const engine::Token> window,
                                               const CachePair& spec) {
  cache::KvCache cache = engine.make_cache(spec.k, spec.v, kContext);
  const auto logits = engine.transformer().forward(cache, std::array{model::Input{0, window, kContext}});
  std::vector<std::vector<double>> rows;
  for (std::size_t r = kContext / 2; r + 1 < kContext; ++r) {
    std::vector<double>& row = rows.emplace_back(logits.row(r).begin(), logits.row(r).end());
    double sum = 0;
    for (double& value : row) sum += value = std::exp(value);
    for (double& value : row) value /= sum;
  }
  return rows;
}

/// What a cache loses, row by row, each by its definition.
struct PlainScores {
  std::vector<double> divergence, loss;
  double squares = 0, same = 0;
};

PlainScores plain_scores(engine::Engine& engine, std::span<const engine::Token> window, const CachePair& reference,
                         const CachePair& other) {
  const auto p = distributions(engine, window, reference), q = distributions(engine, window, other);
  const auto best = [](const std::vector<double>& v) { return std::max_element(v.begin(), v.end()) - v.begin(); };
  PlainScores scores;
  for (std::size_t r = 0; r < p.size(); ++r) {
    double row = 0;
    for (std::size_t i = 0; i < p[r].size(); ++i) row += p[r][i] * std::log(p[r][i] / q[r][i]);
    const auto target = static_cast<std::size_t>(window[kContext / 2 + r + 1]);
    scores.divergence.push_back(row);
    scores.loss.push_back(std::log(p[r][target] / q[r][target]));
    scores.squares += std::pow(p[r][target] - q[r][target], 2);
    scores.same += best(p[r]) == best(q[r]) ? 1 : 0;
  }
  return scores;
}

double mean_of(std::span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

/// 95 scored rows in the 9 blocks that metrics.h promises: of about 64 tokens, shorter so that there are at least 8.
std::vector<std::span<const double>> blocks_of(std::span<const double> values) {
  std::vector<std::span<const double>> blocks;
  for (std::size_t i = 0; i < 9; ++i) {
    const std::size_t begin = values.size() * i / 9, end = values.size() * (i + 1) / 9;
    blocks.push_back(values.subspan(begin, end - begin));
  }
  return blocks;
}

/// Percentile bootstrap over blocks, with another generator and more draws.
std::pair<double, double> bootstrapped(std::span<const double> values) {
  const auto blocks = blocks_of(values);
  std::mt19937 random(9);
  std::uniform_int_distribution<std::size_t> any(0, blocks.size() - 1);
  std::vector<double> means;
  for (int draw = 0; draw < 20000; ++draw) {
    std::vector<double> all;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const auto block = blocks[any(random)];
      all.insert(all.end(), block.begin(), block.end());
    }
    means.push_back(mean_of(all));
  }
  std::sort(means.begin(), means.end());
  return {means[500], means[19500]};
}

/// One window computed plainly: all metrics, each by its definition.
TEST(Compare, EqualsADirectComputation) {
  engine::Engine engine = open_model(kernels::Precision::reference);
  const auto text = recall(engine);
  CompareOptions settings = options("q4_0");
  settings.chunks = 1;
  const CompareResult result = compare(engine, text, settings);
  const CacheResult& row = result.caches[0];
  const PlainScores plain =
      plain_scores(engine, std::span(text).first(kContext), settings.reference, settings.caches[0]);
  const std::size_t rows = plain.loss.size();
  ASSERT_EQ(rows, 95u);
  const double n = 95, divergence = mean_of(plain.divergence), loss = mean_of(plain.loss);
  EXPECT_NEAR(row.all.kld_mean, divergence, 1e-6 * divergence);
  EXPECT_NEAR(row.all.log_ppl_ratio, loss, 1e-6);
  EXPECT_NEAR(row.all.ppl_ratio, std::exp(loss), 1e-6 * std::exp(loss));
  EXPECT_NEAR(row.all.rms_probability, std::sqrt(plain.squares / n), 1e-6);
  EXPECT_DOUBLE_EQ(row.all.top1, plain.same / n);

  std::vector<double> sorted = plain.divergence;
  std::sort(sorted.begin(), sorted.end());
  const auto quantile_of = [&](double q) {  // 94 gaps between 95 values
    const auto below = static_cast<std::size_t>(q * 94);
    const double part = q * 94 - static_cast<double>(below);
    return (1 - part) * sorted[below] + part * sorted[below + 1];
  };
  EXPECT_NEAR(row.all.kld_median, sorted[47], 1e-6);
  EXPECT_NEAR(row.all.kld_p90, quantile_of(0.9), 1e-6);
  EXPECT_NEAR(row.all.kld_p95, quantile_of(0.95), 1e-6);
  EXPECT_NEAR(row.all.kld_p99, quantile_of(0.99), 1e-6);
  EXPECT_NEAR(row.all.kld_p999, quantile_of(0.999), 1e-6);
  EXPECT_NEAR(row.all.kld_max, sorted.back(), 1e-6);

  double squares = 0;
  for (const auto block : blocks_of(plain.divergence)) {
    squares += std::pow(static_cast<double>(block.size()) * (mean_of(block) - divergence), 2);
  }
  EXPECT_NEAR(row.all.kld_se, std::sqrt(squares * 9 / 8) / n, 1e-6);
  // The ends of 2,000 draws are known within 0.06 standard errors, a 65th of the width (1 sigma).
  const auto [low, high] = bootstrapped(plain.loss);
  EXPECT_NEAR(std::log(row.all.ppl_ratio_range.low), low, 0.06 * (high - low));
  EXPECT_NEAR(std::log(row.all.ppl_ratio_range.high), high, 0.06 * (high - low));

  const auto late = std::span(plain.divergence).subspan(kContext / 4),
             late_loss = std::span(plain.loss).subspan(kContext / 4);
  EXPECT_EQ(row.last_quarter.tokens, late.size());
  EXPECT_NEAR(row.last_quarter.kld_mean, mean_of(late), 1e-6);
  EXPECT_NEAR(row.last_quarter.log_ppl_ratio, mean_of(late_loss), 1e-6);
}

/// In fast precision a row depends a little on its batch, and the noise floor says how much.
TEST(Compare, TheNoiseFloorIsTheReferenceInOtherBatches) {
  engine::Engine engine = open_model(kernels::Precision::fast);
  const auto text = recall(engine);
  CompareOptions settings = options("q8_0");
  settings.chunks = 1;
  settings.noise_floor = true;
  const CompareResult result = compare(engine, text, settings);
  // Rows of 50 at a time, where the reference ran 96 and 95.
  const auto window = std::span(text).first(kContext);
  cache::KvCache cache = engine.make_cache({}, {}, kContext), other = engine.make_cache({}, {}, kContext);
  std::vector<std::vector<float>> whole, pieces;
  const auto add = [&](cache::KvCache& to, std::vector<std::vector<float>>& rows, std::size_t begin, std::size_t end) {
    const auto logits =
        engine.transformer().forward(to, std::array{model::Input{0, window.subspan(begin, end - begin), end - begin}});
    for (std::size_t r = 0; r < logits.rows; ++r) rows.emplace_back(logits.row(r).begin(), logits.row(r).end());
  };
  add(cache, whole, 0, 96);
  add(cache, whole, 96, 191);
  for (const auto& [begin, end] : {std::pair<std::size_t, std::size_t>{0, 50}, {50, 96}, {96, 146}, {146, 191}})
    add(other, pieces, begin, end);
  double sum = 0;
  for (std::size_t r = 96; r < 191; ++r) {
    sum += static_cast<double>(compare_rows(whole[r], normalize(whole[r]), pieces[r], 0).divergence);
  }
  EXPECT_NEAR(result.noise_floor->all.kld_mean, sum / 95, 1e-12);
  // 50 rows are multiplied with activations of 8 bits; 96 as well, or, with matrix registers, with those of bf16.
  EXPECT_LT(result.noise_floor->all.kld_mean, 0.1 * result.caches[0].all.kld_mean);
}

TEST(Compare, PositionsTogetherAreTheWhole) {
  engine::Engine engine = open_model(kernels::Precision::fast);
  const auto text = recall(engine);
  const CacheResult row = compare(engine, text, options("q5_1")).caches[0];
  ASSERT_EQ(row.positions.size(), 4u);
  EXPECT_EQ(row.positions.front().begin, kContext / 2);
  EXPECT_EQ(row.positions.back().end, kContext - 1);
  double sum = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    if (i > 0) {
      EXPECT_EQ(row.positions[i].begin, row.positions[i - 1].end);
    }
    EXPECT_GT(row.positions[i].kld_se, 0);
    sum += row.positions[i].kld_mean * static_cast<double>(row.positions[i].end - row.positions[i].begin);
  }
  EXPECT_NEAR(sum / (kContext / 2 - 1), row.all.kld_mean, 1e-9);
}

TEST(Compare, ShortestWindowAndProgress) {
  engine::Engine engine = open_model(kernels::Precision::fast);
  CompareOptions settings = options("q8_0");
  settings.context = 3;
  settings.chunks = 2;
  std::vector<std::size_t> done;
  settings.progress = [&](std::size_t so_far, std::size_t total, std::string_view) {
    done.push_back(so_far);
    EXPECT_EQ(total, 2u * 2 * 2);
  };
  const CompareResult result = compare(engine, recall(engine), settings);
  EXPECT_EQ(result.tokens, 2u);
  EXPECT_EQ(result.caches[0].last_quarter.tokens, 2u);
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), 8u);
  settings.context = 2;
  EXPECT_THROW(compare(engine, recall(engine), settings), Error);
}

TEST(Compare, LogitsThatAreNotFiniteNameTheCache) {
  const auto original = gguf::File::open(own_model("standin-a-q8_0.gguf"));
  std::vector<float> norm(256, 1.0f);
  norm[3] = std::numeric_limits<float>::quiet_NaN();
  const integration::TemporaryFile file(
      "kvant_compare_nan.gguf", integration::with_changes(original, "output_norm.weight", [&](gguf::Writer& w) {
        w.add("output_norm.weight", gguf::TensorType::f32, {256}, std::as_bytes(std::span(norm)));
      }));
  engine::Engine engine(file.path(), {.threads = 1, .isa = active_isa()});
  try {
    compare(engine, std::vector<engine::Token>(64, 5), {.context = 32, .caches = parse_cache_list("q8_0")});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), file.path() + ": logits of chunk 0 with cache f16/f16 are not finite");
  }
}

}  // namespace
}  // namespace kvant::eval
