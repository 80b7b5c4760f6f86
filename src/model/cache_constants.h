#pragma once
#include <cstddef>
#include <vector>

#include "base/thread_pool.h"
#include "cache/constants.h"
#include "codec/plan.h"
#include "codec/spec.h"
#include "model/config.h"
#include "model/weights.h"

namespace kvant::model {

/// What the weights, and plans where the specs ask for one, say about the keys and values of each layer: the anchors
/// and pair energies that `k` and `v` need, everything else empty.
///
/// k_anchor  bias: the K bias; mean: of the plan. Empty where there is none or all of it is zero, and for a bias of a
///           model with QK-norm, which does not leave it constant.
/// k_static  anchor=static: the plan's mean after RoPE.
/// v_anchor  like k_anchor.
/// k_codes, v_codes  type plan: the plan's. k_layout, k_channels  type flex with plan=FILE: the plan's.
/// k_energy  wherever keys have an anchor or a pair scale; q_energy: wherever they may have a pair scale or a shape.
///           With type plan or scale=plan the plan's. Else for an input x that is RMS-normalized and uncorrelated, W
///           row r, g the gain of the norm: E|X_j|^2 = sum of sum_i (W_ri g_i)^2 over the two rows r of pair j, plus
///           the squared bias that no anchor takes out; E|Q_j|^2 the same of the group's query heads. With QK-norm: of
///           the gains that follow it.
///
/// The same bits on every machine. Throws invalid_argument when a spec needs a plan, or codes of one, and there is
/// none, format when weights are not finite.
std::vector<cache::LayerConstants> cache_constants(const ModelConfig& config, const Weights& weights,
                                                   const codec::CacheSpec& k, const codec::CacheSpec& v,
                                                   const codec::Plan* k_plan, const codec::Plan* v_plan,
                                                   ThreadPool& pool);

}  // namespace kvant::model
