/// All combinations of K and V types through a whole model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "integration/test_models.h"

namespace kvant::integration {
namespace {

constexpr const char* kSpecs[] = {"f32",  "f16",      "bf16",     "q8_0",     "q5_1",     "q5_0",    "q4_1",
                                  "q4_0", "rot-q8_0", "rot-q5_1", "rot-q5_0", "rot-q4_1", "rot-q4_0"};

constexpr std::size_t kCapacity = 512;

/// Relative distance of logits from those of an f32 cache.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(sum / norm);
}

class CacheTypes : public testing::TestWithParam<const char*> {};

TEST_P(CacheTypes, WithEveryValueTypeRunsAndStoresWhatItsNameSays) {
  const std::string k = GetParam();
  LoadedModel loaded(gguf::File::open(own_model("standin-a-q8_0.gguf")), {.precision = kernels::Precision::fast});
  const auto tokens = random_tokens(70, loaded.config.vocabulary, 31);
  const auto bits = [&](const codec::CacheSpec& spec) {
    return 8.0 * static_cast<double>(codec::vector_bytes(spec, loaded.config.head_dim)) /
           static_cast<double>(loaded.config.head_dim);
  };
  // Most of the text at once, the rest token by token, so that both ways of attention run.
  const auto run = [&](cache::KvCache cache) {
    auto logits = loaded.forward(cache, std::span(tokens).first(66), 4);
    for (std::size_t i = 66; i < tokens.size(); ++i) {
      const auto row = loaded.forward(cache, std::span(tokens).subspan(i, 1), 1);
      logits.insert(logits.end(), row.begin(), row.end());
    }
    return logits;
  };
  const std::vector<float> exact = run(loaded.make_cache(kCapacity));
  for (const char* v : kSpecs) {
    SCOPED_TRACE("K " + k + ", V " + v);
    const auto k_spec = codec::parse_cache_spec(k), v_spec = codec::parse_cache_spec(v);
    const cache::CacheUsage usage = loaded.make_cache(kCapacity, k_spec, v_spec).usage();
    // The memory of each layer's K and V ends on a page of the system.
    const double padding = 8.0 * 4096 / static_cast<double>(kCapacity * loaded.config.kv_size());
    EXPECT_GE(usage.k_bpv, bits(k_spec));
    EXPECT_LE(usage.k_bpv, bits(k_spec) + padding);
    EXPECT_GE(usage.v_bpv, bits(v_spec));
    EXPECT_LE(usage.v_bpv, bits(v_spec) + padding);

    const auto logits = run(loaded.make_cache(kCapacity, k_spec, v_spec));
    for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit));
    if (k == "f32" && v == std::string("f32")) {
      EXPECT_EQ(logits, exact);
    } else {
      EXPECT_GT(distance(logits, exact), 0) << "a type that changes nothing has not been used";
      EXPECT_LT(distance(logits, exact), 0.5) << "nothing of the model is left";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(, CacheTypes, testing::ValuesIn(kSpecs), [](const auto& spec) {
  std::string name = spec.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace kvant::integration
