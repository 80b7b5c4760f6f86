#pragma once
#include <string>
#include <vector>

#include "cache/kv_cache.h"
#include "codec/spec.h"
#include "model/config.h"
#include "model/weights.h"

namespace kvant::app {

/// What a type of cache, the same for K and V, takes for the context that a model was trained for.
struct CacheSize {
  std::string type;
  cache::CacheUsage usage;
};
std::vector<CacheSize> cache_sizes(const model::ModelConfig& config, const model::Weights& weights);

/// A table of them.
std::string cache_sizes_text(const std::vector<CacheSize>& sizes, const model::ModelConfig& config, bool colour);

}  // namespace kvant::app
