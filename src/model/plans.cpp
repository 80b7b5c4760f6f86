#include "model/plans.h"

#include <fmt/format.h>

#include <array>
#include <optional>
#include <string>

#include "base/hash.h"
#include "model/cache_constants.h"

namespace kvant::model {
namespace {

std::string_view scaling_name(kernels::RopeConfig::Scaling scaling) {
  switch (scaling) {
    case kernels::RopeConfig::Scaling::linear:
      return "linear";
    case kernels::RopeConfig::Scaling::yarn:
      return "yarn";
    case kernels::RopeConfig::Scaling::none:
      break;
  }
  return "none";
}

/// Collects bytes to hash.
class Bytes {
 public:
  template <class T>
  void add(std::span<const T> values) {
    const auto bytes = std::as_bytes(values);
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  std::uint64_t hash() const { return hash_bytes(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

std::uint64_t rope_details(const kernels::RopeConfig& rope) {
  Bytes bytes;
  if (rope.scaling == kernels::RopeConfig::Scaling::yarn) {
    bytes.add<double>(std::array{rope.yarn_beta_fast, rope.yarn_beta_slow});
  }
  bytes.add<float>(rope.frequency_factors);
  return bytes.hash();
}

std::uint64_t key_biases(const Weights& weights) {
  Bytes bytes;
  for (const LayerWeights& layer : weights.layers) bytes.add<float>(layer.k_bias);
  return bytes.hash();
}

std::uint64_t attention_shapes(const Weights& weights) {
  std::string text;
  for (std::size_t i = 0; i < weights.layers.size(); ++i) {
    const LayerWeights& layer = weights.layers[i];
    const auto matrix = [&](std::string_view name, const kernels::WeightView& w) {
      text += fmt::format("blk.{}.{}.weight [{},{}]\n", i, name, w.cols, w.rows);
    };
    const auto vector = [&](std::string_view name, const Vector& v) {
      if (!v.empty()) text += fmt::format("blk.{}.{} [{}]\n", i, name, v.size());
    };
    matrix("attn_q", layer.q);
    matrix("attn_k", layer.k);
    matrix("attn_v", layer.v);
    matrix("attn_output", layer.output);
    vector("attn_q.bias", layer.q_bias);
    vector("attn_k.bias", layer.k_bias);
    vector("attn_v.bias", layer.v_bias);
    vector("attn_q_norm.weight", layer.q_norm);
    vector("attn_k_norm.weight", layer.k_norm);
  }
  return hash_bytes(std::as_bytes(std::span(text)));
}

}  // namespace

codec::PlanIdentity plan_identity(const ModelConfig& config, const Weights& weights) {
  const bool yarn = config.rope.scaling == kernels::RopeConfig::Scaling::yarn;
  codec::PlanIdentity identity;
  identity.architecture = name(config.architecture);
  identity.layers = static_cast<std::size_t>(config.layers);
  identity.embedding = config.embedding;
  identity.heads = static_cast<std::size_t>(config.heads);
  identity.kv_heads = static_cast<std::size_t>(config.kv_heads);
  identity.head_dim = config.head_dim;
  identity.rope_dims = config.rope.dims;
  identity.rope_base = config.rope.base;
  identity.rope_scaling = scaling_name(config.rope.scaling);
  identity.rope_factor = config.rope.factor;
  identity.rope_original_context = yarn ? config.rope.original_context : 0;
  identity.rope_attention_factor = config.rope.attention_factor;
  identity.rope_details = rope_details(config.rope);
  identity.key_biases = key_biases(weights);
  identity.attention_shapes = attention_shapes(weights);
  return identity;
}

std::vector<cache::LayerConstants> load_cache_constants(const ModelConfig& config, const Weights& weights,
                                                        const codec::CacheSpec& k, const codec::CacheSpec& v,
                                                        ThreadPool& pool, const codec::Plan* given) {
  std::optional<codec::Plan> k_plan, v_plan;
  const auto load = [&](const std::string& path, std::optional<codec::Plan>& plan) {
    plan = codec::read_plan(path);
    codec::check_fits(*plan, path, plan_identity(config, weights));
    return &*plan;
  };
  const codec::Plan* keys = k.plan.empty() ? given : load(k.plan, k_plan);
  const codec::Plan* values = v.plan.empty() ? given : v.plan == k.plan ? keys : load(v.plan, v_plan);
  return cache_constants(config, weights, k, v, keys, values, pool);
}

}  // namespace kvant::model
