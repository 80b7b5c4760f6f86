#include "model/cache_constants.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/cpu.h"
#include "base/error.h"
#include "gguf/blocks.h"
#include "kernels/matmul/kernels.h"
#include "model/value_metric.h"

namespace kvant::model {
namespace {

/// sum_i (w_i g_i)^2, in an order that does not depend on the machine.
double squared_norm(std::span<const float> w, std::span<const float> gain) {
  constexpr std::size_t kLanes = 8, kBlock = 256;
  double total = 0;
  for (std::size_t begin = 0; begin < w.size(); begin += kBlock) {
    const std::size_t end = std::min(w.size(), begin + kBlock), whole = begin + (end - begin) / kLanes * kLanes;
    std::array<float, kLanes> lanes{};
    for (std::size_t i = begin; i < whole; i += kLanes) {
      for (std::size_t l = 0; l < kLanes; ++l) {
        const float x = w[i + l] * gain[i + l];
        lanes[l] += x * x;
      }
    }
    for (const float lane : lanes) total += lane;
    for (std::size_t i = whole; i < end; ++i) {
      const double x = static_cast<double>(w[i]) * gain[i];
      total += x * x;
    }
  }
  return total;
}

void decode_row(const kernels::WeightView& w, std::size_t r, kernels::DecodeValues kernel, std::vector<float>& out) {
  const std::byte* data = w.data + r * gguf::row_bytes(w.type, w.cols);
  if (kernel != nullptr) {
    kernel(data, w.cols, out.data());
  } else {
    gguf::dequantize(w.type, data, {out.data(), w.cols});
  }
}

/// Expected squared output of each row of K, and of Q where `with_queries`, bias aside; for all layers.
struct RowEnergies {
  std::vector<double> k, q;  // [layers][rows]
};

RowEnergies row_energies(const ModelConfig& config, const Weights& weights, bool with_queries, ThreadPool& pool) {
  constexpr std::size_t kRowsOfTask = 16;
  const std::size_t kv = config.kv_size(), per_layer = kv + (with_queries ? config.q_size() : 0);
  const Isa isa = active_isa();  // decoders give the same bits on all
  RowEnergies energies;
  energies.k.resize(weights.layers.size() * kv);
  energies.q.resize(weights.layers.size() * (per_layer - kv));
  pool.for_ranges(weights.layers.size() * per_layer, kRowsOfTask, [&](std::size_t begin, std::size_t end, int) {
    std::vector<float> values(config.embedding);
    for (std::size_t i = begin; i < end; ++i) {
      const std::size_t layer = i / per_layer, row = i % per_layer;
      const LayerWeights& w = weights.layers[layer];
      const kernels::WeightView& matrix = row < kv ? w.k : w.q;
      decode_row(matrix, row < kv ? row : row - kv, kernels::find(kernels::decode_kernels(), matrix.type, isa), values);
      const double energy = squared_norm(values, w.attention_norm);
      KVANT_CHECK(std::isfinite(energy), ErrorCode::format, "tensor blk.{}.{}.weight: row {} is not finite", layer,
                  row < kv ? "attn_k" : "attn_q", row < kv ? row : row - kv);
      (row < kv ? energies.k[layer * kv + row] : energies.q[layer * (per_layer - kv) + row - kv]) = energy;
    }
  });
  return energies;
}

/// The channel of the file's order that is channel c of NEOX order.
std::size_t file_channel(const ModelConfig& config, std::size_t c) {
  const std::size_t pairs = config.rope.dims / 2;
  if (!config.interleaved_rope || c >= 2 * pairs) return c;
  return c < pairs ? 2 * c : 2 * (c - pairs) + 1;
}

/// Heads of keys or queries brought from the file's order to NEOX order.
template <class T>
std::vector<T> to_neox(const ModelConfig& config, std::span<const T> heads) {
  std::vector<T> out(heads.size());
  for (std::size_t i = 0; i < heads.size(); ++i) {
    out[i] = heads[i - i % config.head_dim + file_channel(config, i % config.head_dim)];
  }
  return out;
}

/// Adds up the two channels of each pair and the heads of each group: [heads * head_dim] -> [kv_heads * pairs].
std::vector<float> pair_sums(const ModelConfig& config, std::span<const double> channels) {
  const std::size_t pairs = config.rope.dims / 2, heads = channels.size() / config.head_dim;
  const std::size_t kv_heads = static_cast<std::size_t>(config.kv_heads), group = heads / kv_heads;
  std::vector<double> sums(kv_heads * pairs);
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t j = 0; j < pairs; ++j) {
      const double* head = channels.data() + h * config.head_dim;
      sums[h / group * pairs + j] += head[j] + head[j + pairs];
    }
  }
  return {sums.begin(), sums.end()};
}

bool all_zero(std::span<const float> values) {
  return std::all_of(values.begin(), values.end(), [](float x) { return x == 0; });
}

std::vector<float> unless_zero(std::vector<float> values) { return all_zero(values) ? std::vector<float>{} : values; }

void add_squares(std::span<double> energy, std::span<const float> values) {
  for (std::size_t i = 0; i < values.size(); ++i) energy[i] += static_cast<double>(values[i]) * values[i];
}

/// The energies of heads whose channels are normalized to a mean square of 1 and multiplied by `gain`.
std::vector<double> normalized_energies(const ModelConfig& config, const Vector& gain, int heads) {
  std::vector<double> channels(static_cast<std::size_t>(heads) * config.head_dim);
  for (std::size_t i = 0; i < channels.size(); ++i) {
    const double g = gain[i % config.head_dim];
    channels[i] = g * g;
  }
  return channels;
}

/// Constants of keys.
class Keys {
 public:
  Keys(const ModelConfig& config, const codec::CacheSpec& spec, const codec::Plan* plan)
      : config_(config), spec_(spec), plan_(plan) {}

  bool want_queries() const { return spec_.scale != codec::PairScale::none || spec_.shape != codec::Shape::none; }
  bool want_energies() const { return want_queries() || spec_.anchor != codec::Anchor::none; }
  /// Whether energies come from the rows of the weights.
  bool want_rows() const { return want_energies() && !planned() && !config_.qk_norm; }

  void set_anchor(const LayerWeights& w, std::size_t layer, cache::LayerConstants& out) const {
    switch (spec_.anchor) {
      case codec::Anchor::none:
        return;
      case codec::Anchor::bias:
        if (w.k_norm.empty()) out.k_anchor = unless_zero(to_neox<float>(config_, w.k_bias));
        return;
      case codec::Anchor::mean:
        out.k_anchor = unless_zero(plan_->layers[layer].k_mean);
        return;
      case codec::Anchor::fixed:
        out.k_static = unless_zero(plan_->layers[layer].k_mean_rotated);
        return;
    }
  }

  /// `k` and `q`: energies of the rows of this layer, for want_rows().
  void set_energies(const LayerWeights& w, std::size_t layer, std::span<const double> k, std::span<const double> q,
                    cache::LayerConstants& out) const {
    if (planned()) {
      out.k_energy = codec::pair_energies(plan_->layers[layer].k_moment, plan_->model);
      if (want_queries()) out.q_energy = codec::pair_energies(plan_->layers[layer].q_moment, plan_->model);
      return;
    }
    std::vector<double> keys(k.begin(), k.end()), queries(q.begin(), q.end());
    if (config_.qk_norm) {
      keys = normalized_energies(config_, w.k_norm, config_.kv_heads);
      queries = normalized_energies(config_, w.q_norm, config_.heads);
    } else {
      if (spec_.anchor == codec::Anchor::none || spec_.anchor == codec::Anchor::fixed) add_squares(keys, w.k_bias);
      if (want_queries()) add_squares(queries, w.q_bias);
    }
    out.k_energy = pair_sums(config_, to_neox<double>(config_, keys));
    if (want_queries()) out.q_energy = pair_sums(config_, to_neox<double>(config_, queries));
  }

 private:
  /// Whether energies come from the plan.
  bool planned() const {
    return spec_.scale == codec::PairScale::plan || spec_.coding == codec::CacheSpec::Coding::plan;
  }

  const ModelConfig& config_;
  const codec::CacheSpec& spec_;
  const codec::Plan* plan_;
};

std::vector<float> value_anchor(const LayerWeights& w, std::size_t layer, codec::Anchor anchor,
                                const codec::Plan* plan) {
  if (anchor == codec::Anchor::bias) return unless_zero(w.v_bias);
  if (anchor == codec::Anchor::mean || anchor == codec::Anchor::fixed) return unless_zero(plan->layers[layer].v_mean);
  return {};
}

void check_plan(const codec::CacheSpec& spec, codec::PageSide side, const codec::Plan* plan, std::size_t layers) {
  const bool coded = spec.coding == codec::CacheSpec::Coding::plan;
  const bool needed = coded || spec.anchor == codec::Anchor::mean || spec.anchor == codec::Anchor::fixed ||
                      spec.scale == codec::PairScale::plan || spec.planned_flex();
  KVANT_CHECK(!needed || plan != nullptr, ErrorCode::invalid_argument, "cache type {} needs a plan",
              codec::to_string(spec, side));
  KVANT_CHECK(!needed || plan->layers.size() == layers, ErrorCode::invalid_argument,
              "the plan has {} layers, the model {}", plan->layers.size(), layers);
  KVANT_CHECK(!spec.planned_flex() || plan->layouts, ErrorCode::invalid_argument,
              "cache type {}: the plan has no layouts: calibrate --tiers makes one that has",
              codec::to_string(spec, side));
  if (!coded) return;
  const bool keys = side == codec::PageSide::key;
  const auto& of_side = keys ? &codec::LayerCodes::keys : &codec::LayerCodes::values;
  const auto has_codes = [&](const codec::LayerCodes& codes) { return !(codes.*of_side).empty(); };
  KVANT_CHECK(plan->codes.size() == layers && std::any_of(plan->codes.begin(), plan->codes.end(), has_codes),
              ErrorCode::invalid_argument, "cache type {}: {} has no codes for {}", codec::to_string(spec, side),
              spec.plan.empty() ? "the plan" : spec.plan, keys ? "keys" : "values");
}

}  // namespace

std::vector<cache::LayerConstants> cache_constants(const ModelConfig& config, const Weights& weights,
                                                   const codec::CacheSpec& k, const codec::CacheSpec& v,
                                                   const codec::Plan* k_plan, const codec::Plan* v_plan,
                                                   ThreadPool& pool) {
  const std::size_t layers = weights.layers.size(), kv = config.kv_size();
  check_plan(k, codec::PageSide::key, k_plan, layers);
  check_plan(v, codec::PageSide::value, v_plan, layers);
  const Keys keys(config, k, k_plan);
  RowEnergies rows;
  if (keys.want_rows()) rows = row_energies(config, weights, keys.want_queries(), pool);
  const std::span<const double> k_rows(rows.k), q_rows(rows.q);

  std::vector<std::vector<float>> metrics(layers);
  if (v.shape == codec::Shape::weights) metrics = value_metrics(config, weights, pool);

  std::vector<cache::LayerConstants> constants(layers);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    const LayerWeights& w = weights.layers[layer];
    cache::LayerConstants& out = constants[layer];
    keys.set_anchor(w, layer, out);
    const std::size_t k_count = k_rows.size() / layers, q_count = q_rows.size() / layers;
    KVANT_ASSERT(k_count == 0 || k_count == kv);
    if (keys.want_energies()) {
      keys.set_energies(w, layer, k_rows.subspan(layer * k_count, k_count), q_rows.subspan(layer * q_count, q_count),
                        out);
    }
    out.v_anchor = value_anchor(w, layer, v.anchor, v_plan);
    out.v_metric = std::move(metrics[layer]);
    if (k.coding == codec::CacheSpec::Coding::plan) out.k_codes = k_plan->codes[layer].keys;
    if (k.planned_flex()) out.set_layout(*k_plan->layouts, layer);
    if (v.coding == codec::CacheSpec::Coding::plan) out.v_codes = v_plan->codes[layer].values;
  }
  return constants;
}

}  // namespace kvant::model
