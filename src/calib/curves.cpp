#include "calib/curves.h"

#include <algorithm>
#include <span>

#include "kernels/rope/rope.h"
#include "model/value_metric.h"

namespace kvant::calib {
namespace {

/// The symmetric matrix [n][n] of a head's packed lower triangle.
std::vector<double> unpack(const std::vector<float>& packed, std::size_t head, std::size_t n) {
  const float* from = packed.data() + head * codec::packed_size(n);
  std::vector<double> matrix(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) matrix[i * n + j] = matrix[j * n + i] = *from++;
  }
  return matrix;
}

/// A moment before RoPE -> after it, the mean over contexts (key_curves).
std::vector<double> after_rope(const std::vector<double>& moment, std::size_t n, std::span<const double> frequencies,
                               std::size_t positions) {
  std::vector<double> sum(moment.size());
  double contexts = 0;
  for (std::size_t context = positions; contexts == 0 || context >= kShortContext; context /= 4) {
    std::vector<double> one = moment;
    codec::average_over_positions(one, n, frequencies, context);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += one[i];
    ++contexts;
  }
  for (double& x : sum) x /= contexts;
  return sum;
}

/// Leaves a moment nothing but the mean over both dims of each pair, or, without pairs, over all dims.
void keep_pairs(std::vector<double>& moment, std::size_t n, std::size_t pairs) {
  std::vector<double> kept(n);
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += moment[i * n + i];
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t other = i < pairs ? i + pairs : i < 2 * pairs ? i - pairs : i;
    kept[i] = pairs > 0 ? (moment[i * n + i] + moment[other * n + other]) / 2 : sum / static_cast<double>(n);
  }
  std::fill(moment.begin(), moment.end(), 0.0);
  for (std::size_t i = 0; i < n; ++i) moment[i * n + i] = kept[i];
}

/// make(layer, head) for all heads, and their options.
template <class Make>
SideCurves curves_of(const codec::Plan& plan, codec::PageSide of, const Without& without, ThreadPool& pool,
                     const Make& make) {
  SideCurves side{plan.model.layers, plan.model.kv_heads, {}};
  side.heads.resize(side.layers * side.kv_heads);
  const DistortionTable table(plan.model.head_dim);
  pool.run(side.heads.size(), [&](std::size_t i, int) {
    HeadCurve& head = side.heads[i];
    head.transform = make(i / side.kv_heads, i % side.kv_heads);
    head.options = code_options(table, of, head.transform.energies, without.parts);
  });
  return side;
}

}  // namespace

codec::HeadCode HeadCurve::code(std::size_t option) const {
  return {transform.transform, transform.inverse, options[option].parts};
}

SideCurves key_curves(const codec::Plan& plan, const model::ModelConfig& config, std::size_t positions,
                      const Without& without, ThreadPool& pool) {
  const std::size_t n = plan.model.head_dim;
  const kernels::RopeFrequencies rope = kernels::rope_frequencies(config.rope);
  return curves_of(plan, codec::PageSide::key, without, pool, [&](std::size_t layer, std::size_t head) {
    const auto moment = [&](const std::vector<float>& packed) {
      std::vector<double> after = after_rope(unpack(packed, head, n), n, rope.theta, positions);
      if (without.transform) keep_pairs(after, n, rope.theta.size());
      return after;
    };
    return codec::make_head_transform(moment(plan.layers[layer].k_moment), moment(plan.layers[layer].q_moment), n);
  });
}

SideCurves value_curves(const codec::Plan& plan, const model::ModelConfig& config, const model::Weights& weights,
                        const Without& without, ThreadPool& pool) {
  const std::size_t n = plan.model.head_dim;
  const std::vector<std::vector<float>> metrics = model::value_metrics(config, weights, pool);
  return curves_of(plan, codec::PageSide::value, without, pool, [&](std::size_t layer, std::size_t head) {
    const auto metric = std::span(metrics[layer]).subspan(head * n * n, n * n);
    std::vector<double> values = unpack(plan.layers[layer].v_moment, head, n), m(metric.begin(), metric.end());
    if (without.transform) {
      keep_pairs(values, n, 0);
      keep_pairs(m, n, 0);
    }
    return codec::make_head_transform(values, m, n);
  });
}

std::vector<codec::HeadCode> layer_codes(const SideCurves& curves, std::size_t layer,
                                         const std::vector<std::size_t>& chosen) {
  std::vector<codec::HeadCode> codes;
  for (std::size_t h = layer * curves.kv_heads; h < (layer + 1) * curves.kv_heads; ++h) {
    codes.push_back(curves.heads[h].code(chosen[h]));
  }
  return codes;
}

}  // namespace kvant::calib
