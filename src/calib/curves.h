#pragma once
#include <cstddef>
#include <vector>

#include "base/thread_pool.h"
#include "calib/rate.h"
#include "codec/head_code.h"
#include "codec/page_layout.h"
#include "codec/plan.h"
#include "codec/transform.h"
#include "model/config.h"
#include "model/weights.h"

namespace kvant::calib {

/// What coding one head takes and costs.
struct HeadCurve {
  codec::HeadTransform transform;
  std::vector<CodeOption> options;

  codec::HeadCode code(std::size_t option) const;
};

/// What a search leaves out, to show what it is worth.
struct Without {
  bool transform = false;    ///< dims are only scaled: keys pair by pair, values not at all
  bool parts = false;        ///< all dims of a head have the same bits
  bool sensitivity = false;  ///< an error counts the same in every layer
  bool window = false;       ///< no tokens in f16

  friend bool operator==(const Without&, const Without&) = default;
};

/// The curves of the keys, or the values, of all heads.
struct SideCurves {
  std::size_t layers = 0, kv_heads = 0;
  std::vector<HeadCurve> heads;  ///< [layers][kv_heads]
};

/// Keys: errors count by the second moment of the queries; both moments after RoPE, averaged over the positions of
/// contexts of all lengths up to `positions`, which are those that the plan is meant for: the mean over the contexts of
/// positions, positions / 4, .. down to kShortContext.
inline constexpr std::size_t kShortContext = 512;
SideCurves key_curves(const codec::Plan& plan, const model::ModelConfig& config, std::size_t positions,
                      const Without& without, ThreadPool& pool);
/// Values: errors count by what the output projection makes of them (model/value_metric.h).
SideCurves value_curves(const codec::Plan& plan, const model::ModelConfig& config, const model::Weights& weights,
                        const Without& without, ThreadPool& pool);

/// The codes of one layer: option chosen[head] of each.
std::vector<codec::HeadCode> layer_codes(const SideCurves& curves, std::size_t layer,
                                         const std::vector<std::size_t>& chosen);

}  // namespace kvant::calib
