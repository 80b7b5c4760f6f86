#include "model/cache_constants.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "integration/random_model.h"
#include "model/plans.h"

namespace kvant::integration {
namespace {

using codec::PageSide;
using codec::parse_cache_spec;

struct Loaded {
  explicit Loaded(const RandomModel& model)
      : bytes(model.bytes()),
        file(gguf::File::parse(bytes, "m.gguf")),
        config(model::read_config(file)),
        weights(model::load_weights(file, config)) {}
  std::vector<std::byte> bytes;
  gguf::File file;
  model::ModelConfig config;
  model::Weights weights;
};

Loaded load(const std::string& architecture) {
  RandomModel model;
  model.architecture = architecture;
  model.heads = 6;
  model.kv_heads = 2;
  model.head_dim = 16;
  model.embedding = 83;  // neither a multiple of a vector nor of the heads
  if (architecture != "qwen3") {
    model.more = [architecture](gguf::Writer& w) { w.set(architecture + ".rope.dimension_count", std::uint32_t{12}); };
  }
  return Loaded(model);
}

std::vector<cache::LayerConstants> constants(const Loaded& m, std::string_view k, std::string_view v = "f16",
                                             const codec::Plan* plan = nullptr, int threads = 2) {
  ThreadPool pool(threads);
  return model::cache_constants(m.config, m.weights, parse_cache_spec(k), parse_cache_spec(v, PageSide::value), plan,
                                plan, pool);
}

/// sum_i (W_ri g_i)^2 of one row, computed plainly.
double row_energy(const Loaded& m, const kernels::WeightView& w, std::size_t layer, std::size_t row) {
  std::vector<float> values(w.cols);
  kernels::decode_row(w, row, values.data());
  double sum = 0;
  for (std::size_t i = 0; i < w.cols; ++i) {
    sum += std::pow(static_cast<double>(values[i]) * m.weights.layers[layer].attention_norm[i], 2);
  }
  return sum;
}

/// The two rows of pair j of a head, as the file has them.
std::array<std::size_t, 2> pair_rows(const Loaded& m, std::size_t head, std::size_t j) {
  const std::size_t first = head * m.config.head_dim;
  if (m.config.interleaved_rope) return {first + 2 * j, first + 2 * j + 1};
  return {first + j, first + j + m.config.rope.dims / 2};
}

class CacheConstants : public testing::TestWithParam<const char*> {};

TEST_P(CacheConstants, EnergiesAreThoseOfRowsAndBiases) {
  const Loaded m = load(GetParam());
  const std::size_t pairs = m.config.rope.dims / 2;
  for (const char* spec : {"lm4,anchor=bias,scale=weights", "lm4,anchor=none,scale=weights"}) {
    const bool bias_stays = std::string_view(spec).find("none") != std::string_view::npos;
    const auto all = constants(m, spec);
    ASSERT_EQ(all.size(), 2u);
    for (std::size_t layer = 0; layer < all.size(); ++layer) {
      const model::LayerWeights& w = m.weights.layers[layer];
      ASSERT_EQ(all[layer].k_energy.size(), 2 * pairs);
      ASSERT_EQ(all[layer].q_energy.size(), 2 * pairs);
      for (std::size_t h = 0; h < 2; ++h) {
        for (std::size_t j = 0; j < pairs; ++j) {
          double k = 0, q = 0;
          if (m.config.qk_norm) {
            k = std::pow(w.k_norm[j], 2) + std::pow(w.k_norm[j + pairs], 2);
            q = 3 * (std::pow(w.q_norm[j], 2) + std::pow(w.q_norm[j + pairs], 2));
          } else {
            for (const std::size_t r : pair_rows(m, h, j)) {
              k += row_energy(m, w.k, layer, r) + (bias_stays && !w.k_bias.empty() ? std::pow(w.k_bias[r], 2) : 0);
            }
            for (std::size_t g = 0; g < 3; ++g) {
              for (const std::size_t r : pair_rows(m, 3 * h + g, j)) {
                q += row_energy(m, w.q, layer, r) + (w.q_bias.empty() ? 0 : std::pow(w.q_bias[r], 2));
              }
            }
          }
          // Sums of at most 32 squares in f32 and one rounding of the result.
          EXPECT_NEAR(all[layer].k_energy[h * pairs + j], k, 34 * 0x1p-24 * k) << spec << " pair " << j;
          EXPECT_NEAR(all[layer].q_energy[h * pairs + j], q, 34 * 0x1p-24 * q) << spec << " pair " << j;
        }
      }
    }
  }
}

TEST_P(CacheConstants, TheBiasIsTheAnchor) {
  const Loaded m = load(GetParam());
  const auto all = constants(m, "lm4", "lm4,anchor=bias");
  const std::size_t d = m.config.head_dim, pairs = m.config.rope.dims / 2;
  for (std::size_t layer = 0; layer < all.size(); ++layer) {
    const model::LayerWeights& w = m.weights.layers[layer];
    EXPECT_EQ(all[layer].v_anchor, w.v_bias);
    EXPECT_TRUE(all[layer].k_static.empty());
    if (m.config.qk_norm || w.k_bias.empty()) {
      EXPECT_TRUE(all[layer].k_anchor.empty());
      continue;
    }
    ASSERT_EQ(all[layer].k_anchor.size(), w.k_bias.size());
    for (std::size_t h = 0; h < 2; ++h) {
      for (std::size_t j = 0; j < pairs; ++j) {
        const auto rows = pair_rows(m, h, j);
        EXPECT_EQ(all[layer].k_anchor[h * d + j], w.k_bias[rows[0]]);
        EXPECT_EQ(all[layer].k_anchor[h * d + j + pairs], w.k_bias[rows[1]]);
      }
      for (std::size_t c = 2 * pairs; c < d; ++c) EXPECT_EQ(all[layer].k_anchor[h * d + c], w.k_bias[h * d + c]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, CacheConstants, testing::Values("qwen2", "qwen3", "llama"),
                         [](const auto& architecture) { return std::string(architecture.param); });

codec::Plan random_plan(const Loaded& m) {
  codec::Plan plan;
  Random random(7);
  const auto fill = [&](std::vector<float>& values, std::size_t size) {
    values.resize(size);
    for (float& x : values) x = static_cast<float>(random.uniform() + 0.1);
  };
  plan.model = model::plan_identity(m.config, m.weights);
  plan.layers.resize(m.weights.layers.size());
  for (codec::LayerStatistics& s : plan.layers) {
    for (auto* mean : {&s.k_mean, &s.k_mean_rotated, &s.v_mean}) fill(*mean, m.config.kv_size());
    for (auto* moment : {&s.k_moment, &s.q_moment, &s.v_moment}) {
      fill(*moment, plan.model.kv_heads * codec::packed_size(m.config.head_dim));
    }
  }
  return plan;
}

TEST(CacheConstantsOfPlan, MeansAndEnergies) {
  const Loaded m = load("qwen2");
  const codec::Plan plan = random_plan(m);
  const auto mean = constants(m, "lm4,anchor=mean,scale=plan,plan=p", "lm4,anchor=mean,plan=p", &plan);
  const auto fixed = constants(m, "lm4,anchor=static,scale=none,plan=p", "f16", &plan);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const codec::LayerStatistics& s = plan.layers[layer];
    EXPECT_EQ(mean[layer].k_anchor, s.k_mean);
    EXPECT_EQ(mean[layer].v_anchor, s.v_mean);
    EXPECT_EQ(mean[layer].k_energy, codec::pair_energies(s.k_moment, plan.model));
    EXPECT_EQ(mean[layer].q_energy, codec::pair_energies(s.q_moment, plan.model));
    EXPECT_TRUE(mean[layer].k_static.empty());
    EXPECT_EQ(fixed[layer].k_static, s.k_mean_rotated);
    EXPECT_TRUE(fixed[layer].k_anchor.empty());
    EXPECT_TRUE(fixed[layer].v_anchor.empty());
    EXPECT_TRUE(fixed[layer].q_energy.empty());
  }
}

TEST(CacheConstantsOfPlan, CodesOfHeads) {
  const Loaded m = load("qwen2");
  codec::Plan plan = random_plan(m);
  plan.codes.resize(2);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    const int bits = static_cast<int>(layer);
    plan.codes[layer].keys.assign(2, {{}, {}, {{.dims = 32, .bits = bits + 1}}});
    plan.codes[layer].values.assign(2, {{}, {}, {{.dims = 32, .bits = bits + 3}}});
  }
  const auto both = constants(m, "plan,plan=p", "plan,plan=p", &plan), keys = constants(m, "plan,plan=p", "f16", &plan);
  for (std::size_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(both[layer].k_codes, plan.codes[layer].keys);
    EXPECT_EQ(both[layer].v_codes, plan.codes[layer].values);
    EXPECT_EQ(both[layer].k_anchor, plan.layers[layer].k_mean);
    EXPECT_EQ(both[layer].v_anchor, plan.layers[layer].v_mean);
    EXPECT_EQ(both[layer].k_energy, codec::pair_energies(plan.layers[layer].k_moment, plan.model));
    EXPECT_TRUE(both[layer].q_energy.empty());
    EXPECT_EQ(keys[layer].k_codes, plan.codes[layer].keys);
    EXPECT_TRUE(keys[layer].v_codes.empty());
  }
  for (codec::LayerCodes& layer : plan.codes) layer.values.clear();
  EXPECT_THAT([&] { constants(m, "plan,plan=p", "plan,plan=p", &plan); },
              testing::ThrowsMessage<Error>("cache type plan,plan=p: p has no codes for values"));
  plan.codes.clear();
  EXPECT_THAT([&] { constants(m, "plan,plan=p", "f16", &plan); },
              testing::ThrowsMessage<Error>("cache type plan,plan=p: p has no codes for keys"));
  EXPECT_THAT([&] { constants(m, "plan,plan=p"); }, testing::ThrowsMessage<Error>(testing::HasSubstr("needs a plan")));
}

TEST(CacheConstantsOfPlan, MissingOneIsRefused) {
  const Loaded m = load("qwen2");
  EXPECT_THAT([&] { constants(m, "lm4,anchor=mean,plan=p"); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("anchor=mean,plan=p needs a plan")));
  codec::Plan plan = random_plan(m);
  plan.layers.pop_back();
  EXPECT_THAT([&] { constants(m, "lm4,anchor=mean,plan=p", "f16", &plan); },
              testing::ThrowsMessage<Error>(testing::HasSubstr("the plan has 1 layers, the model 2")));
}

TEST(CacheConstantsOfWeights, NothingIsComputedForPlainTypes) {
  for (const auto& layer : constants(load("qwen2"), "f16", "q8_0")) {
    for (const auto* v : {&layer.k_anchor, &layer.k_static, &layer.v_anchor, &layer.k_energy, &layer.q_energy}) {
      EXPECT_TRUE(v->empty());
    }
  }
}

TEST(CacheConstantsOfWeights, DoNotDependOnThreads) {
  const Loaded m = load("llama");
  const auto one = constants(m, "lm4", "f16", nullptr, 1), three = constants(m, "lm4", "f16", nullptr, 3);
  for (std::size_t layer = 0; layer < one.size(); ++layer) {
    EXPECT_EQ(one[layer].k_energy, three[layer].k_energy);
    EXPECT_EQ(one[layer].q_energy, three[layer].q_energy);
  }
}

}  // namespace
}  // namespace kvant::integration
