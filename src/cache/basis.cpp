#include "cache/basis.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "kernels/rope/rope.h"

namespace kvant::cache {
namespace {

using codec::Anchor;
using codec::PairScale;

constexpr double kDroppedEnergy = 0.02;  ///< of an anchor, relative to the energy of the keys as they are stored
constexpr double kScaleSteps = 16;       ///< steps of a pair scale in an octave
constexpr double kEnergyFloor = 1e-4;    ///< of a pair, relative to the mean

std::vector<float> part(const std::vector<float>& all, std::size_t head, std::size_t size) {
  if (all.empty()) return {};
  const auto first = all.begin() + static_cast<std::ptrdiff_t>(head * size);
  return {first, first + static_cast<std::ptrdiff_t>(size)};
}

/// Squared magnitude of each RoPE pair.
std::vector<double> pair_energies(const std::vector<float>& x, std::size_t pairs) {
  std::vector<double> energies(pairs);
  for (std::size_t j = 0; j < pairs; ++j) {
    energies[j] = static_cast<double>(x[j]) * x[j] + static_cast<double>(x[j + pairs]) * x[j + pairs];
  }
  return energies;
}

double sum(const std::vector<double>& x) { return std::accumulate(x.begin(), x.end(), 0.0); }

/// What energy 1 of each pair, in all its directions alike, is after T [dims][head_dim].
std::vector<double> mapped_energies(std::span<const Bf16> map, std::size_t head_dim, std::size_t pairs) {
  std::vector<double> energies(pairs);
  for (std::size_t i = 0; i < map.size(); ++i) {
    const std::size_t channel = i % head_dim;
    const double x = to_float(map[i]);
    if (channel < 2 * pairs) energies[channel % pairs] += x * x / 2;
  }
  return energies;
}

/// Leaves the pairs of an anchor in the keys that are not worth their time; adds their energy to that of the keys.
/// weights  what energy 1 of a pair is where keys are stored
void drop_small_pairs(std::vector<float>& anchor, std::vector<double>& key_energies,
                      const kernels::AnchorAngles& angles, std::span<const double> weights) {
  const std::size_t pairs = key_energies.size();
  const std::vector<double> given = pair_energies(anchor, pairs);
  std::vector<double> energies(pairs);
  for (std::size_t j = 0; j < pairs; ++j) energies[j] = weights[j] * given[j];
  double budget = kDroppedEnergy * std::inner_product(weights.begin(), weights.end(), key_energies.begin(), 0.0);
  const bool all = sum(energies) <= budget;
  std::vector<std::size_t> order(pairs);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return energies[a] < energies[b]; });
  for (const std::size_t j : order) {
    if (!all && angles.slow(j)) continue;
    if (energies[j] > budget) break;
    budget -= energies[j];
    anchor[j] = anchor[j + pairs] = 0;
    key_energies[j] += given[j];
  }
}

/// Raises what is far below the mean, so that no pair is left without weight.
std::vector<double> with_floor(std::vector<double> energies) {
  const double floor = kEnergyFloor * sum(energies) / static_cast<double>(energies.size());
  for (double& e : energies) e = std::max(e, floor);
  return energies;
}

/// Sets the scale of a head's pairs, if the spec asks for it.
void set_scale(HeadBasis& basis, PairScale wanted, const std::vector<double>& key_energies,
               const std::vector<double>& query_energies, std::size_t head_dim) {
  const std::vector<double> x = with_floor(key_energies), q = with_floor(query_energies);
  const std::size_t pairs = x.size();
  double mixed = 0;
  for (std::size_t j = 0; j < pairs; ++j) mixed += std::sqrt(x[j] * q[j]);
  if (!(mixed > 0) || !std::isfinite(mixed)) return;
  basis.gain = sum(q) * sum(x) / (mixed * mixed);
  if (wanted == PairScale::automatic && basis.gain < codec::kScaleGain) return;
  const double level = std::sqrt(sum(x) / mixed);  // keeps the energy of the keys
  basis.scale.assign(head_dim, 1.0F);
  basis.inverse.assign(head_dim, 1.0F);
  for (std::size_t j = 0; j < pairs; ++j) {
    const double steps = std::round(kScaleSteps * std::log2(level * std::pow(q[j] / x[j], 0.25)));
    basis.scale[j] = basis.scale[j + pairs] = static_cast<float>(std::exp2(steps / kScaleSteps));
    basis.inverse[j] = basis.inverse[j + pairs] = static_cast<float>(std::exp2(-steps / kScaleSteps));
  }
}

std::span<const Bf16> transposed(std::span<const Bf16> m, std::size_t rows, Maps& maps) {
  const std::size_t cols = m.size() / rows;
  const std::span<Bf16> t = maps.take(m.size());
  for (std::size_t i = 0; i < m.size(); ++i) t[i % cols * rows + i / cols] = m[i];
  return t;
}

/// y = x m
void map(kernels::LinearFunction linear, const float* x, std::size_t x_stride, std::span<const Bf16> m,
         std::size_t inputs, std::size_t rows, float* y, std::size_t y_stride) noexcept {
  linear({x, x_stride, m.data(), inputs, m.size() / inputs, rows, y, y_stride});
}

}  // namespace

Maps::Maps(std::span<const LayerConstants> constants) {
  std::size_t values = 0;
  for (const LayerConstants& of : constants) {
    for (const auto* codes : {&of.k_codes, &of.v_codes}) {
      for (const codec::HeadCode& code : *codes) values += code.transform.size() + code.inverse.size();
    }
  }
  values_ = AlignedBuffer<Bf16>(values);
}

std::span<Bf16> Maps::take(std::size_t values) {
  KVANT_ASSERT(values <= values_.size() - taken_);
  return values_.span().subspan(std::exchange(taken_, taken_ + values), values);
}

void HeadBasis::key(std::span<const float> k, const float* rope_angles, std::size_t rope_pairs,
                    float* x) const noexcept {
  alignas(64) float before[kMaxHeadDim];
  float* y = transform.empty() ? x : before;
  std::copy(k.begin(), k.end(), y);
  for (std::size_t i = 0; i < anchor.size(); ++i) y[i] -= anchor[i];
  kernels::rope_apply(rope_angles, rope_pairs, y);
  for (std::size_t i = 0; i < mean.size(); ++i) y[i] -= mean[i];
  for (std::size_t i = 0; i < scale.size(); ++i) y[i] *= scale[i];
  if (y != x) map(linear, y, 0, transform, k.size(), 1, x, 0);
}

void HeadBasis::queries(const float* q, std::size_t rows, std::size_t head_dim, float* x,
                        std::size_t stride) const noexcept {
  if (!transform.empty()) return map(linear, q, head_dim, inverse_transform, head_dim, rows, x, stride);
  for (std::size_t r = 0; r < rows; ++r, q += head_dim, x += stride) {
    std::copy_n(q, head_dim, x);
    for (std::size_t i = 0; i < inverse.size(); ++i) x[i] *= inverse[i];
  }
}

void HeadBasis::value(std::span<const float> v, float* x) const noexcept {
  alignas(64) float before[kMaxHeadDim];
  float* y = transform.empty() ? x : before;
  std::copy(v.begin(), v.end(), y);
  for (std::size_t i = 0; i < anchor.size(); ++i) y[i] -= anchor[i];
  if (y != x) map(linear, y, 0, transform, v.size(), 1, x, 0);
}

void HeadBasis::outputs(const float* x, std::size_t stride, std::size_t rows, std::size_t head_dim,
                        float* out) const noexcept {
  if (!transform.empty()) {
    map(linear, x, stride, inverse_transform, inverse_transform.size() / head_dim, rows, out, head_dim);
  }
  for (std::size_t r = 0; r < rows; ++r, out += head_dim) {
    if (transform.empty()) std::copy_n(x + r * stride, head_dim, out);
    for (std::size_t i = 0; i < anchor.size(); ++i) out[i] += anchor[i];
  }
}

std::size_t HeadBasis::constant_bytes() const noexcept {
  std::size_t values = 0;
  for (const auto* v : {&anchor, &mean, &scale, &inverse, &pairs.re, &pairs.im}) values += v->size();
  return values * sizeof(float) + pairs.fast.size() * sizeof(pairs.fast[0]) +
         (transform.size() + inverse_transform.size()) * sizeof(Bf16);
}

HeadBasis make_key_basis(const codec::CacheSpec& spec, const LayerConstants& constants, std::size_t head,
                         std::size_t head_dim, const kernels::AnchorAngles* angles, Maps& maps, Isa isa) {
  HeadBasis basis;
  const bool planned = spec.coding == codec::CacheSpec::Coding::plan && !constants.k_codes.empty();
  const std::size_t pairs = angles != nullptr ? angles->pairs() : 0;
  const auto energies = [&](const std::vector<float>& all) {
    const std::vector<float> mine = part(all, head, pairs);
    return std::vector<double>(mine.begin(), mine.end());
  };
  std::vector<double> keys = energies(constants.k_energy);
  const std::vector<double> queries = energies(constants.q_energy);
  if (spec.anchor == Anchor::fixed) basis.mean = part(constants.k_static, head, head_dim);
  if (spec.anchor == Anchor::bias || spec.anchor == Anchor::mean) {
    basis.anchor = part(constants.k_anchor, head, head_dim);
    if (!basis.anchor.empty() && !keys.empty()) {
      const std::vector<double> weights =
          planned ? mapped_energies(constants.k_codes[head].transform, head_dim, pairs) : std::vector<double>(pairs, 1);
      drop_small_pairs(basis.anchor, keys, *angles, weights);
    }
    if (std::all_of(basis.anchor.begin(), basis.anchor.end(), [](float a) { return a == 0; })) basis.anchor.clear();
    if (!basis.anchor.empty() && pairs > 0) basis.pairs = kernels::make_anchor_pairs(*angles, basis.anchor);
  }
  if (planned) {
    const codec::HeadCode& code = constants.k_codes[head];
    const std::size_t dims = codec::coded_dims(head_dim);
    basis.transform = transposed(code.transform, dims, maps);
    basis.inverse_transform = transposed(code.inverse, dims, maps);
    basis.linear = kernels::linear(isa);
  } else if (spec.scale != PairScale::none && !keys.empty() && !queries.empty()) {
    set_scale(basis, spec.scale, keys, queries, head_dim);
  }
  return basis;
}

HeadBasis make_value_basis(const codec::CacheSpec& spec, const LayerConstants& constants, std::size_t head,
                           std::size_t head_dim, Maps& maps, Isa isa) {
  HeadBasis basis;
  if (spec.anchor != Anchor::none) basis.anchor = part(constants.v_anchor, head, head_dim);
  if (spec.coding == codec::CacheSpec::Coding::plan && !constants.v_codes.empty()) {
    const codec::HeadCode& code = constants.v_codes[head];
    basis.transform = transposed(code.transform, codec::coded_dims(head_dim), maps);
    const std::span<Bf16> inverse = maps.take(code.inverse.size());
    std::copy(code.inverse.begin(), code.inverse.end(), inverse.begin());
    basis.inverse_transform = inverse;
    basis.linear = kernels::linear(isa);
  }
  return basis;
}

}  // namespace kvant::cache
