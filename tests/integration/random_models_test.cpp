/// Random models of every shape and weight type against the independent forward pass in double.
#include <gtest/gtest.h>

#include <cmath>
#include <ostream>

#include "gguf/blocks.h"
#include "integration/random_model.h"
#include "integration/reference_forward.h"
#include "integration/test_models.h"

namespace kvant::integration {
namespace {

using gguf::TensorType;
using kernels::Precision;

constexpr std::size_t kTokens = 24;

struct Error {
  double largest;  ///< over the root mean square of the logits
  double rms;      ///< relative
};

Error compare(const std::vector<float>& logits, const std::vector<std::vector<double>>& expected) {
  double largest = 0, sum = 0, norm = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const double e = expected[i / expected[0].size()][i % expected[0].size()], difference = logits[i] - e;
    // !(x <= y) keeps a NaN
    if (!(std::abs(difference) <= largest)) largest = std::abs(difference);
    sum += difference * difference;
    norm += e * e;
  }
  return {largest / std::sqrt(norm / static_cast<double>(logits.size())), std::sqrt(sum / norm)};
}

/// f32 rounding: a sum of n products is off by about sqrt(n) * 2^-24 of its terms' norm, four such sums follow each
/// other in a layer, and the largest error of some thousand logits is four of its standard deviations.
double rounding_tolerance(const RandomModel& model) {
  const double width = static_cast<double>(std::max(model.embedding, model.feed_forward));
  return 4 * 4 * model.layers * std::sqrt(width) * 0x1p-24;
}

void expect_reference_logits(const RandomModel& model) {
  const std::vector<std::byte> bytes = model.bytes();
  const auto tokens = random_tokens(kTokens, model.vocabulary, 77);
  const auto expected = reference_logits(gguf::File::parse(bytes, "random"), tokens);
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    LoadedModel loaded(gguf::File::parse(bytes, "random"), {.isa = isa});
    EXPECT_LT(compare(loaded.logits(tokens), expected).largest, rounding_tolerance(model));
  }
}

struct Shape {
  std::string architecture;
  std::size_t head_dim;
  int heads, kv_heads;
  bool tied, biases;
};
std::ostream& operator<<(std::ostream& out, const Shape& s) { return out << s.architecture << "_d" << s.head_dim; }

class RandomShapes : public testing::TestWithParam<Shape> {};

TEST_P(RandomShapes, LogitsEqualTheReference) {
  const Shape& s = GetParam();
  expect_reference_logits({.architecture = s.architecture,
                           .heads = s.heads,
                           .kv_heads = s.kv_heads,
                           .head_dim = s.head_dim,
                           .tied = s.tied,
                           .biases = s.biases});
}

INSTANTIATE_TEST_SUITE_P(, RandomShapes,
                         testing::Values(Shape{"qwen2", 8, 8, 4, false, true}, Shape{"qwen2", 64, 4, 2, true, true},
                                         Shape{"qwen2", 80, 3, 1, false, true}, Shape{"qwen2", 96, 2, 2, false, false},
                                         Shape{"qwen2", 128, 6, 2, true, true}, Shape{"qwen2", 256, 2, 1, false, true},
                                         Shape{"qwen3", 64, 4, 1, false, false}, Shape{"qwen3", 80, 2, 2, true, false},
                                         Shape{"qwen3", 96, 4, 2, false, false}, Shape{"qwen3", 128, 4, 4, true, false},
                                         Shape{"qwen3", 256, 2, 1, false, false},
                                         Shape{"llama", 64, 8, 2, false, false}, Shape{"llama", 80, 2, 1, true, false},
                                         Shape{"llama", 96, 3, 3, false, true}, Shape{"llama", 128, 4, 1, false, false},
                                         Shape{"llama", 256, 1, 1, true, false}),
                         testing::PrintToStringParamName());

class RandomTypes : public testing::TestWithParam<TensorType> {};

RandomModel model_of(TensorType type) {
  return {.heads = 4, .kv_heads = 2, .head_dim = 64, .embedding = 256, .feed_forward = 512, .type = type};
}

TEST_P(RandomTypes, ReferencePrecisionIsExact) { expect_reference_logits(model_of(GetParam())); }

/// Fast precision may round activations: to int8 in blocks of 32 (step = largest / 127, and the largest of 32 normal
/// values is about 2.1 deviations: 2.1 / 127 / sqrt(12) = 0.5 % of the norm) or to bf16 (2^-9 / sqrt(3) = 0.1 %).
/// Seven products of a layer, of which four are in series, in two layers and the head: sqrt(9) times that, and the
/// residual stream carries part of it around: 0.5 % * 3 = 1.5 %. The bound is twice that.
TEST_P(RandomTypes, FastPrecisionStaysWithinTheRoundingOfActivations) {
  const RandomModel model = model_of(GetParam());
  const std::vector<std::byte> bytes = model.bytes();
  const auto tokens = random_tokens(kTokens, model.vocabulary, 77);
  const auto expected = reference_logits(gguf::File::parse(bytes, "random"), tokens);
  for (const Isa isa : supported_isas()) {
    SCOPED_TRACE(name(isa));
    LoadedModel loaded(gguf::File::parse(bytes, "random"), {.isa = isa, .precision = Precision::fast});
    EXPECT_LT(compare(loaded.logits(tokens), expected).rms, 0.03) << "in one batch";
    cache::KvCache cache = loaded.make_cache(kTokens);
    std::vector<float> stepwise;
    for (const auto& token : tokens) {
      const auto row = loaded.forward(cache, {&token, 1}, 1);
      stepwise.insert(stepwise.end(), row.begin(), row.end());
    }
    EXPECT_LT(compare(stepwise, expected).rms, 0.03) << "token by token";
  }
}

std::vector<TensorType> weight_types() {
  std::vector<TensorType> types;
  for (const auto& info : gguf::all_types()) {
    if (gguf::is_weight_type(info.type)) types.push_back(info.type);
  }
  return types;
}

INSTANTIATE_TEST_SUITE_P(, RandomTypes, testing::ValuesIn(weight_types()),
                         [](const auto& type) { return std::string(gguf::info(type.param).name); });

// RoPE: everything that a file can ask for.

TEST(RandomRope, AnotherBase) {
  expect_reference_logits({.more = [](gguf::Writer& w) { w.set("qwen2.rope.freq_base", 1e6f); }});
}

TEST(RandomRope, LinearScaling) {
  expect_reference_logits({.more = [](gguf::Writer& w) {
    w.set("qwen2.rope.scaling.type", "linear");
    w.set("qwen2.rope.scaling.factor", 4.0f);
  }});
}

TEST(RandomRope, YarnScaling) {
  // 64 of 256 tokens: pairs on both sides of the ramp and on it.
  expect_reference_logits({.context = 256, .more = [](gguf::Writer& w) {
                             w.set("qwen2.rope.scaling.type", "yarn");
                             w.set("qwen2.rope.scaling.factor", 4.0f);
                             w.set("qwen2.rope.scaling.original_context_length", std::uint32_t{64});
                           }});
}

TEST(RandomRope, YarnScalingWithAttentionFactor) {
  expect_reference_logits({.architecture = "llama", .context = 256, .more = [](gguf::Writer& w) {
                             w.set("llama.rope.scaling.type", "yarn");
                             w.set("llama.rope.scaling.factor", 8.0f);
                             w.set("llama.rope.scaling.original_context_length", std::uint32_t{128});
                             w.set("llama.rope.scaling.attn_factor", 0.75f);
                           }});
}

TEST(RandomRope, FrequencyFactors) {
  std::vector<float> factors(32);
  for (std::size_t j = 0; j < factors.size(); ++j) factors[j] = j < 10 ? 1.0f : 1.0f + 0.25f * static_cast<float>(j);
  expect_reference_logits({.architecture = "llama", .more = [&](gguf::Writer& w) {
                             w.add("rope_freqs.weight", TensorType::f32, {32}, std::as_bytes(std::span(factors)));
                           }});
}

TEST(RandomRope, PartOfTheHeadInNeoxOrder) {
  expect_reference_logits({.more = [](gguf::Writer& w) { w.set("qwen2.rope.dimension_count", std::uint32_t{32}); }});
}

TEST(RandomRope, PartOfTheHeadInInterleavedOrder) {
  expect_reference_logits({.architecture = "llama",
                           .more = [](gguf::Writer& w) { w.set("llama.rope.dimension_count", std::uint32_t{48}); }});
}

}  // namespace
}  // namespace kvant::integration
