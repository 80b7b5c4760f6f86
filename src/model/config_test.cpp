#include "model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <variant>

#include "base/error.h"
#include "gguf/writer.h"

namespace kvant::model {
namespace {

using Value = std::variant<std::uint32_t, float, const char*, std::nullptr_t>;  // nullptr: leave the key out
using Changes = std::map<std::string, Value>;

constexpr auto operator""_u(unsigned long long n) { return static_cast<std::uint32_t>(n); }

/// A file of a small model with some keys changed, added or left out, and with these frequency factors.
std::vector<std::byte> file_with(const std::string& architecture, const Changes& changes,
                                 const std::vector<float>& factors = {}) {
  std::map<std::string, Value> values = {
      {"block_count", 3_u},
      {"embedding_length", 96_u},
      {"feed_forward_length", 160_u},
      {"context_length", 2048_u},
      {"attention.head_count", 6_u},
      {"attention.head_count_kv", 2_u},
      {"attention.layer_norm_rms_epsilon", 1e-5f},
  };
  for (const auto& [key, value] : changes) values[key] = value;
  gguf::Writer writer;
  writer.set("general.architecture", std::string_view(architecture));
  for (const auto& [key, value] : values) {
    const std::string full = key.starts_with("general.") ? key : architecture + "." + key;
    if (const auto* n = std::get_if<std::uint32_t>(&value)) writer.set(full, *n);
    if (const auto* x = std::get_if<float>(&value)) writer.set(full, *x);
    if (const auto* text = std::get_if<const char*>(&value)) writer.set(full, std::string_view(*text));
  }
  const std::vector<float> embedding(96 * 40);
  writer.add("token_embd.weight", gguf::TensorType::f32, {96, 40}, std::as_bytes(std::span(embedding)));
  if (!factors.empty()) {
    writer.add("rope_freqs.weight", gguf::TensorType::f32, {factors.size()}, std::as_bytes(std::span(factors)));
  }
  return writer.bytes();
}

ModelConfig read(const std::string& architecture, const Changes& changes = {}, const std::vector<float>& factors = {}) {
  const auto bytes = file_with(architecture, changes, factors);
  return read_config(gguf::File::parse(bytes, "m.gguf"));
}

std::string error(const Changes& changes, ErrorCode code = ErrorCode::format, const std::vector<float>& factors = {}) {
  try {
    read("qwen2", changes, factors);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "accepted";
}

TEST(Config, ReadsSizesAndDefaults) {
  const ModelConfig c = read("qwen2", {{"general.name", "small"}});
  EXPECT_EQ(c.architecture, Architecture::qwen2);
  EXPECT_EQ(c.name, "small");
  EXPECT_EQ(c.layers, 3);
  EXPECT_EQ(c.embedding, 96u);
  EXPECT_EQ(c.feed_forward, 160u);
  EXPECT_EQ(c.heads, 6);
  EXPECT_EQ(c.kv_heads, 2);
  EXPECT_EQ(c.head_dim, 16u);
  EXPECT_EQ(c.vocabulary, 40u);
  EXPECT_EQ(c.context, 2048u);
  EXPECT_EQ(c.window, 0u);
  EXPECT_EQ(c.norm_epsilon, 1e-5f);
  EXPECT_EQ(c.score_scale, 0.0f);
  EXPECT_EQ(c.q_size(), 96u);
  EXPECT_EQ(c.kv_size(), 32u);
  EXPECT_EQ(c.rope.dims, 16u);
  EXPECT_EQ(c.rope.base, 10000.0);
  EXPECT_EQ(c.rope.scaling, kernels::RopeConfig::Scaling::none);
  EXPECT_TRUE(c.rope.frequency_factors.empty());
}

TEST(Config, ArchitecturesDifferInNormAndPairOrder) {
  const ModelConfig qwen2 = read("qwen2"), qwen3 = read("qwen3"), llama = read("llama");
  EXPECT_FALSE(qwen2.qk_norm || qwen2.interleaved_rope);
  EXPECT_TRUE(qwen3.qk_norm && !qwen3.interleaved_rope);
  EXPECT_TRUE(!llama.qk_norm && llama.interleaved_rope);
  EXPECT_EQ(name(qwen3.architecture), "qwen3");
}

TEST(Config, HeadsMayBeWiderThanTheirShareOfTheEmbedding) {
  const ModelConfig c = read("qwen3", {{"attention.key_length", 64_u},
                                       {"attention.value_length", 64_u},
                                       {"attention.head_count", 5_u},
                                       {"attention.head_count_kv", nullptr}});
  EXPECT_EQ(c.head_dim, 64u);
  EXPECT_EQ(c.kv_heads, 5) << "as many as query heads where the file says nothing";
}

TEST(Config, ReadsRopeScaling) {
  using Scaling = kernels::RopeConfig::Scaling;
  const auto linear = read("qwen2", {{"rope.scaling.type", "linear"}, {"rope.scaling.factor", 4.0f}}).rope;
  EXPECT_EQ(linear.scaling, Scaling::linear);
  EXPECT_EQ(linear.factor, 4);
  const auto old = read("llama", {{"rope.scale_linear", 2.0f}}).rope;
  EXPECT_EQ(old.scaling, Scaling::linear);
  EXPECT_EQ(old.factor, 2);
  const auto none = read("qwen2", {{"rope.scaling.type", "none"}, {"rope.scaling.factor", 4.0f}}).rope;
  EXPECT_EQ(none.scaling, Scaling::none);
  EXPECT_EQ(none.factor, 1);
  const auto yarn = read("qwen2", {{"rope.scaling.type", "yarn"},
                                   {"rope.scaling.factor", 4.0f},
                                   {"rope.scaling.original_context_length", 512_u},
                                   {"rope.scaling.attn_factor", 0.5f},
                                   {"rope.freq_base", 1e6f},
                                   {"rope.dimension_count", 8_u}})
                        .rope;
  EXPECT_EQ(yarn.scaling, Scaling::yarn);
  EXPECT_EQ(yarn.factor, 4);
  EXPECT_EQ(yarn.original_context, 512u);
  EXPECT_EQ(yarn.attention_factor, 0.5);
  EXPECT_EQ(yarn.base, 1e6);
  EXPECT_EQ(yarn.dims, 8u);
  EXPECT_EQ(read("llama", {}, {1, 2, 3, 4, 5, 6, 7, 8}).rope.frequency_factors.size(), 8u);
}

TEST(Config, RefusesWhatItCannotRun) {
  const auto unsupported = ErrorCode::unsupported;
  EXPECT_EQ(error({{"attention.value_length", 32_u}}, unsupported),
            "m.gguf: qwen2.attention.value_length is 32, but qwen2.attention.key_length is 16; they must be equal");
  EXPECT_EQ(error({{"rope.scaling.type", "longrope"}}, unsupported),
            "m.gguf: qwen2.rope.scaling.type is \"longrope\", supported are none, linear and yarn");
  EXPECT_EQ(error({{"expert_count", 8_u}}, unsupported),
            "m.gguf: qwen2.expert_count is 8: mixtures of experts are not supported");
  EXPECT_THAT(error({{"rope.scaling.attn_factor", 2.0f}}, unsupported), testing::HasSubstr("attn_factor is 2"));
}

TEST(Config, RefusesValuesOutOfRangeNamingKeyAndBothValues) {
  EXPECT_EQ(error({{"block_count", 0_u}}), "m.gguf: qwen2.block_count is 0, expected 1 to 1024");
  EXPECT_EQ(error({{"block_count", 1025_u}}), "m.gguf: qwen2.block_count is 1025, expected 1 to 1024");
  EXPECT_EQ(error({{"attention.head_count", 0_u}}), "m.gguf: qwen2.attention.head_count is 0, expected 1 to 1024");
  EXPECT_EQ(error({{"attention.head_count_kv", 7_u}}), "m.gguf: qwen2.attention.head_count_kv is 7, expected 1 to 6");
  EXPECT_EQ(error({{"attention.head_count_kv", 4_u}}),
            "m.gguf: qwen2.attention.head_count is 6, which qwen2.attention.head_count_kv = 4 does not divide");
  EXPECT_EQ(error({{"attention.head_count", 5_u}, {"attention.head_count_kv", 5_u}}),
            "m.gguf: qwen2.embedding_length is 96, which qwen2.attention.head_count = 5 does not divide");
  EXPECT_EQ(error({{"attention.key_length", 15_u}}),
            "m.gguf: qwen2.attention.key_length is 15, expected an even number");
  EXPECT_EQ(error({{"attention.key_length", 514_u}}), "m.gguf: qwen2.attention.key_length is 514, expected 2 to 512");
  EXPECT_EQ(error({{"embedding_length", 0_u}}), "m.gguf: qwen2.embedding_length is 0, expected 1 to 1048576");
  EXPECT_EQ(error({{"context_length", 0_u}}), "m.gguf: qwen2.context_length is 0, expected 1 to 1073741824");
  EXPECT_EQ(error({{"attention.layer_norm_rms_epsilon", 0.0f}}),
            "m.gguf: qwen2.attention.layer_norm_rms_epsilon is 0, expected a number above 0");
  EXPECT_THAT(error({{"attention.layer_norm_rms_epsilon", std::numeric_limits<float>::quiet_NaN()}}),
              testing::HasSubstr("expected a number above 0"));
  EXPECT_EQ(error({{"rope.freq_base", 1.0f}}), "m.gguf: qwen2.rope.freq_base is 1, expected a number above 1");
  EXPECT_EQ(error({{"rope.dimension_count", 18_u}}), "m.gguf: qwen2.rope.dimension_count is 18, expected 2 to 16");
  EXPECT_EQ(error({{"rope.dimension_count", 7_u}}), "m.gguf: qwen2.rope.dimension_count is 7, expected an even number");
  EXPECT_EQ(error({{"rope.scaling.factor", 0.0f}}),
            "m.gguf: qwen2.rope.scaling.factor is 0, expected a number above 0");
}

TEST(Config, RefusesAbsentKeysAndBrokenFrequencyFactors) {
  EXPECT_THAT(error({{"block_count", nullptr}}), testing::HasSubstr("qwen2.block_count"));
  EXPECT_THAT(error({{"attention.layer_norm_rms_epsilon", nullptr}}), testing::HasSubstr("layer_norm_rms_epsilon"));
  EXPECT_EQ(error({}, ErrorCode::format, {1, 2, 3}), "m.gguf: tensor rope_freqs.weight: shape [3], expected [8]");
  EXPECT_EQ(error({}, ErrorCode::format, {1, 2, 3, 4, 0, 6, 7, 8}),
            "m.gguf: tensor rope_freqs.weight: value 0, expected a number above 0");
}

}  // namespace
}  // namespace kvant::model
