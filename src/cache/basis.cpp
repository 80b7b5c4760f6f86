#include "cache/basis.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/rope/rope.h"

namespace kvant::cache {
namespace {

using codec::Anchor;
using codec::PairScale;

constexpr double kDroppedEnergy = 0.02;  ///< of an anchor, relative to the energy of the keys
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

/// Leaves the pairs of an anchor in the keys that are not worth their time; adds their energy to that of the keys.
void drop_small_pairs(std::vector<float>& anchor, std::vector<double>& key_energies,
                      const kernels::AnchorAngles& angles) {
  const std::size_t pairs = key_energies.size();
  const std::vector<double> energies = pair_energies(anchor, pairs);
  double budget = kDroppedEnergy * sum(key_energies);
  const bool all = sum(energies) <= budget;
  std::vector<std::size_t> order(pairs);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return energies[a] < energies[b]; });
  for (const std::size_t j : order) {
    if (!all && angles.slow(j)) continue;
    if (energies[j] > budget) break;
    budget -= energies[j];
    anchor[j] = anchor[j + pairs] = 0;
    key_energies[j] += energies[j];
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

}  // namespace

void HeadBasis::key(std::span<const float> k, const float* rope_angles, std::size_t rope_pairs,
                    float* x) const noexcept {
  std::copy(k.begin(), k.end(), x);
  for (std::size_t i = 0; i < anchor.size(); ++i) x[i] -= anchor[i];
  kernels::rope_apply(rope_angles, rope_pairs, x);
  for (std::size_t i = 0; i < mean.size(); ++i) x[i] -= mean[i];
  for (std::size_t i = 0; i < scale.size(); ++i) x[i] *= scale[i];
}

void HeadBasis::query(std::span<float> q) const noexcept {
  for (std::size_t i = 0; i < inverse.size(); ++i) q[i] *= inverse[i];
}

void HeadBasis::value(std::span<const float> v, float* x) const noexcept {
  std::copy(v.begin(), v.end(), x);
  for (std::size_t i = 0; i < anchor.size(); ++i) x[i] -= anchor[i];
}

void HeadBasis::output(std::span<float> x) const noexcept {
  for (std::size_t i = 0; i < anchor.size(); ++i) x[i] += anchor[i];
}

std::size_t HeadBasis::constant_bytes() const noexcept {
  std::size_t values = 0;
  for (const auto* v : {&anchor, &mean, &scale, &inverse, &pairs.re, &pairs.im}) values += v->size();
  return values * sizeof(float) + pairs.fast.size() * sizeof(pairs.fast[0]);
}

HeadBasis make_key_basis(const codec::CacheSpec& spec, const LayerConstants& constants, std::size_t head,
                         std::size_t head_dim, const kernels::AnchorAngles* angles) {
  HeadBasis basis;
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
    if (!basis.anchor.empty() && !keys.empty()) drop_small_pairs(basis.anchor, keys, *angles);
    if (std::all_of(basis.anchor.begin(), basis.anchor.end(), [](float a) { return a == 0; })) basis.anchor.clear();
    if (!basis.anchor.empty() && pairs > 0) basis.pairs = kernels::make_anchor_pairs(*angles, basis.anchor);
  }
  if (spec.scale != PairScale::none && !keys.empty() && !queries.empty()) {
    set_scale(basis, spec.scale, keys, queries, head_dim);
  }
  return basis;
}

HeadBasis make_value_basis(const codec::CacheSpec& spec, const LayerConstants& constants, std::size_t head,
                           std::size_t head_dim) {
  HeadBasis basis;
  if (spec.anchor != Anchor::none) basis.anchor = part(constants.v_anchor, head, head_dim);
  return basis;
}

}  // namespace kvant::cache
