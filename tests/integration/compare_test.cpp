/// Caches of the stand-in model against its reference cache.
#include "eval/compare.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

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

/// One window computed plainly: all logits of both caches at once, KLD by its definition.
TEST(Compare, EqualsADirectComputation) {
  engine::Engine engine = open_model(kernels::Precision::reference);
  const auto text = recall(engine);
  CompareOptions settings = options("q4_0");
  settings.chunks = 1;
  const CompareResult result = compare(engine, text, settings);

  const auto window = std::span(text).first(kContext);
  const auto distributions = [&](const CachePair& spec) {
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
  };
  const auto p = distributions(settings.reference), q = distributions(settings.caches[0]);
  double divergence = 0, loss = 0, squares = 0, late = 0, same = 0;
  std::size_t late_rows = 0;
  for (std::size_t r = 0; r < p.size(); ++r) {
    double row = 0;
    for (std::size_t i = 0; i < p[r].size(); ++i) row += p[r][i] * std::log(p[r][i] / q[r][i]);
    divergence += row;
    const auto target = static_cast<std::size_t>(window[kContext / 2 + r + 1]);
    loss += std::log(p[r][target] / q[r][target]);
    squares += std::pow(p[r][target] - q[r][target], 2);
    const auto best = [](const std::vector<double>& v) { return std::max_element(v.begin(), v.end()) - v.begin(); };
    same += best(p[r]) == best(q[r]) ? 1 : 0;
    if (kContext / 2 + r < kContext * 3 / 4) continue;
    late += row;
    ++late_rows;
  }
  const auto n = static_cast<double>(p.size());
  const CacheResult& row = result.caches[0];
  EXPECT_NEAR(row.all.kld_mean, divergence / n, 1e-6 * divergence / n);
  EXPECT_NEAR(row.all.log_ppl_ratio, loss / n, 1e-6);
  EXPECT_NEAR(row.all.rms_probability, std::sqrt(squares / n), 1e-6);
  EXPECT_DOUBLE_EQ(row.all.top1, same / n);
  EXPECT_EQ(row.last_quarter.tokens, late_rows);
  EXPECT_NEAR(row.last_quarter.kld_mean, late / static_cast<double>(late_rows), 1e-6);
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
