#pragma once
#include <vector>

#include "base/thread_pool.h"
#include "cache/constants.h"
#include "codec/plan.h"
#include "codec/spec.h"
#include "model/config.h"
#include "model/weights.h"

namespace kvant::model {

/// What tells this model from others, for plans. The same for all weight types that a model is distributed in, as long
/// as its biases are (they are kept in f32).
codec::PlanIdentity plan_identity(const ModelConfig& config, const Weights& weights);

/// cache_constants (model/cache_constants.h) with the plans that the specs name: each file is read once and must have
/// been made for this model; specs of type `plan` that name no file take `given`. Throws what read_plan, check_fits and
/// cache_constants throw.
std::vector<cache::LayerConstants> load_cache_constants(const ModelConfig& config, const Weights& weights,
                                                        const codec::CacheSpec& k, const codec::CacheSpec& v,
                                                        ThreadPool& pool, const codec::Plan* given = nullptr);

}  // namespace kvant::model
