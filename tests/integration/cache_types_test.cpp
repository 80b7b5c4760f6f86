/// All combinations of K and V types through a whole model.
#include <gtest/gtest.h>

#include <cmath>

#include "integration/test_models.h"

namespace kvant::integration {
namespace {

constexpr const char* kSpecs[] = {"f32",  "f16",      "bf16",     "q8_0",     "q5_1",     "q5_0",    "q4_1",
                                  "q4_0", "rot-q8_0", "rot-q5_1", "rot-q5_0", "rot-q4_1", "rot-q4_0"};

/// Relative distance of logits from those of an f32 cache.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(sum / norm);
}

TEST(CacheTypes, EveryCombinationRunsAndEachTypeStoresWhatItsNameSays) {
  LoadedModel loaded(gguf::File::open(own_model("standin-a-q8_0.gguf")), {});
  const auto tokens = random_tokens(100, loaded.config.vocabulary, 31);
  std::vector<float> exact;
  for (const char* k : kSpecs) {
    for (const char* v : kSpecs) {
      SCOPED_TRACE(std::string("K ") + k + ", V " + v);
      const auto k_spec = codec::parse_cache_spec(k), v_spec = codec::parse_cache_spec(v);
      cache::KvCache cache = loaded.make_cache(128, k_spec, v_spec);
      // Most of the text at once, the rest token by token, so that both ways of attention run.
      auto logits = loaded.forward(cache, std::span(tokens).first(90), 4);
      for (std::size_t i = 90; i < tokens.size(); ++i) {
        const auto row = loaded.forward(cache, std::span(tokens).subspan(i, 1), 1);
        logits.insert(logits.end(), row.begin(), row.end());
      }
      for (const float logit : logits) ASSERT_TRUE(std::isfinite(logit));
      if (exact.empty()) exact = logits;  // f32, f32 comes first
      const bool same = k == kSpecs[0] && v == kSpecs[0];
      EXPECT_EQ(distance(logits, exact) == 0, same) << "a type that changes nothing has not been used";

      const cache::CacheUsage usage = cache.usage();
      const auto bits = [&](const codec::CacheSpec& spec) {
        return 8.0 * static_cast<double>(codec::vector_bytes(spec, loaded.config.head_dim)) /
               static_cast<double>(loaded.config.head_dim);
      };
      EXPECT_GE(usage.k_bpv, bits(k_spec));
      EXPECT_LT(usage.k_bpv, bits(k_spec) * 1.1);
      EXPECT_GE(usage.v_bpv, bits(v_spec));
      EXPECT_LT(usage.v_bpv, bits(v_spec) * 1.1);
    }
  }
}

}  // namespace
}  // namespace kvant::integration
