#include "calib/collect.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "calib/statistics.h"
#include "integration/random_model.h"
#include "integration/test_models.h"
#include "model/plans.h"

namespace kvant::integration {
namespace {

RandomModel small_model(const std::string& architecture) {
  RandomModel model;
  model.architecture = architecture;
  model.layers = 1;
  model.heads = 4;
  model.kv_heads = 2;
  model.head_dim = 16;
  model.embedding = 48;
  return model;
}

/// y = W x + b
std::vector<double> product(const kernels::WeightView& w, const std::vector<double>& x, const model::Vector& bias) {
  std::vector<float> row(w.cols);
  std::vector<double> y(bias.begin(), bias.end());
  y.resize(w.rows);
  for (std::size_t r = 0; r < w.rows; ++r) {
    kernels::decode_row(w, r, row.data());
    for (std::size_t i = 0; i < w.cols; ++i) y[r] += row[i] * x[i];
  }
  return y;
}

void normalize(double* x, std::span<const float> gain, double epsilon) {
  double squares = 0;
  for (std::size_t i = 0; i < gain.size(); ++i) squares += x[i] * x[i];
  for (std::size_t i = 0; i < gain.size(); ++i) {
    x[i] *= gain[i] / std::sqrt(squares / static_cast<double>(gain.size()) + epsilon);
  }
}

class Collected : public testing::TestWithParam<const char*> {};

/// In a model of one layer, keys and values follow from the embeddings alone.
TEST_P(Collected, StatisticsAreThoseOfTheFirstLayer) {
  const auto bytes = small_model(GetParam()).bytes();
  LoadedModel m(gguf::File::parse(bytes, "m.gguf"), {});
  const auto tokens = random_tokens(40, m.config.vocabulary, 3);
  calib::Statistics statistics(m.config, m.pool);
  m.transformer.set_tap(&statistics);
  auto cache = m.make_cache(64);
  m.forward(cache, tokens, 0);
  m.transformer.set_tap(nullptr);
  m.forward(cache, std::span(tokens).first(5), 0);  // nobody listens
  ASSERT_EQ(statistics.tokens(), tokens.size());
  const codec::LayerStatistics s = statistics.result().front();

  const model::LayerWeights& w = m.weights.layers.front();
  const std::size_t d = m.config.head_dim, pairs = d / 2, kv = m.config.kv_size(), count = tokens.size();
  const auto n = static_cast<double>(count);
  std::vector<std::vector<double>> keys(count), queries(count), values(count);
  std::vector<double> k_mean(kv), v_mean(kv);
  std::vector<float> embedded(m.config.embedding);
  for (std::size_t t = 0; t < count; ++t) {
    kernels::decode_row(m.weights.embedding, static_cast<std::size_t>(tokens[t]), embedded.data());
    std::vector<double> x(embedded.begin(), embedded.end());
    normalize(x.data(), w.attention_norm, m.config.norm_epsilon);
    keys[t] = product(w.k, x, w.k_bias);
    queries[t] = product(w.q, x, w.q_bias);
    values[t] = product(w.v, x, w.v_bias);
    for (auto* heads : {&keys[t], &queries[t]}) {
      for (std::size_t h = 0; h < heads->size(); h += d) {
        if (m.config.qk_norm)
          normalize(heads->data() + h, heads == &keys[t] ? w.k_norm : w.q_norm, m.config.norm_epsilon);
        if (!m.config.interleaved_rope) continue;
        std::vector<double> ordered(d);
        for (std::size_t j = 0; j < d; ++j) ordered[j % 2 * pairs + j / 2] = (*heads)[h + j];
        std::copy(ordered.begin(), ordered.end(), heads->begin() + static_cast<std::ptrdiff_t>(h));
      }
    }
    for (std::size_t c = 0; c < kv; ++c) {
      k_mean[c] += keys[t][c] / n;
      v_mean[c] += values[t][c] / n;
    }
  }
  // Products of 48 inputs in f32: some 48 roundings of sums of magnitude below 8.
  constexpr double kError = 48 * 8 * 0x1p-24;
  for (std::size_t c = 0; c < kv; ++c) {
    EXPECT_NEAR(s.k_mean[c], k_mean[c], kError) << c;
    EXPECT_NEAR(s.v_mean[c], v_mean[c], kError) << c;
  }
  const std::vector<double> zero(kv);
  std::size_t at = 0;
  for (std::size_t head = 0; head < kv; head += d) {
    for (std::size_t i = 0; i < d; ++i) {
      for (std::size_t j = 0; j <= i; ++j, ++at) {
        const auto moment = [&](const std::vector<std::vector<double>>& x, const std::vector<double>& mean,
                                std::size_t first) {
          double sum = 0;
          for (const auto& row : x) sum += (row[first + i] - mean[head + i]) * (row[first + j] - mean[head + j]) / n;
          return sum;
        };
        EXPECT_NEAR(s.k_moment[at], moment(keys, k_mean, head), 8 * kError) << at;
        EXPECT_NEAR(s.v_moment[at], moment(values, v_mean, head), 8 * kError) << at;
        EXPECT_NEAR(s.q_moment[at], moment(queries, zero, 2 * head) + moment(queries, zero, 2 * head + d), 16 * kError)
            << at;
      }
    }
  }
  EXPECT_EQ(s.k_moment.size(), at);
}

INSTANTIATE_TEST_SUITE_P(All, Collected, testing::Values("qwen2", "qwen3", "llama"),
                         [](const auto& architecture) { return std::string(architecture.param); });

TEST(Collect, MakesAPlanThatFitsItsModel) {
  const auto path = own_model("standin-a-q8_0.gguf");
  KVANT_REQUIRE_FILE(path);
  engine::Engine engine(path, {.threads = 2, .isa = active_isa()});
  const auto tokens = random_tokens(100, engine.config().vocabulary, 8);
  std::size_t reported = 0;
  calib::CollectOptions options{.corpus = "random", .tokens = 96, .context = 40};
  options.progress = [&](std::size_t done, std::size_t total, std::string_view) {
    reported = done;
    EXPECT_EQ(total, 80u);
  };
  const codec::Plan plan = calib::collect(engine, tokens, options);
  EXPECT_EQ(reported, 80u);
  EXPECT_EQ(plan.corpus.name, "random");
  EXPECT_EQ(plan.corpus.tokens, 80u);
  EXPECT_EQ(plan.corpus.context, 40u);
  EXPECT_EQ(codec::parse_plan(codec::serialize_plan(plan), "p.gguf"), plan);

  const auto bytes = codec::serialize_plan(plan);
  const TemporaryFile file("plan.gguf", bytes);
  const auto spec = codec::parse_cache_spec("lm4,anchor=mean,plan=" + file.path());
  const auto constants = model::load_cache_constants(engine.config(), engine.weights(), spec, {}, engine.pool());
  EXPECT_EQ(constants.front().k_anchor, plan.layers.front().k_mean);

  codec::Plan other = plan;
  other.model.key_biases ^= 1;
  const auto wrong = codec::serialize_plan(other);
  const TemporaryFile misfit("misfit.gguf", wrong);
  const auto misfitting = codec::parse_cache_spec("lm4,anchor=mean,plan=" + misfit.path());
  EXPECT_THAT([&] { model::load_cache_constants(engine.config(), engine.weights(), misfitting, {}, engine.pool()); },
              testing::ThrowsMessage<Error>(testing::HasSubstr(misfit.path() + ": made for a model with key_biases")));

  options.tokens = 101;
  EXPECT_THAT([&] { calib::collect(engine, tokens, options); },
              testing::ThrowsMessage<Error>("the text has 100 tokens, 101 are needed"));
  options.tokens = 39;
  EXPECT_THAT([&] { calib::collect(engine, tokens, options); },
              testing::ThrowsMessage<Error>("39 tokens are asked for, less than one window of 40"));
}

}  // namespace
}  // namespace kvant::integration
