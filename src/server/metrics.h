#pragma once
#include <string>

#include "server/scheduler.h"

namespace kvant::server {

/// What the cache takes at a moment, for people and metrics.
struct CacheMemory {
  double bytes = 0;       ///< of the whole pool
  double used_bytes = 0;  ///< of the blocks in use
  double f16_bytes = 0;   ///< that the tokens of these blocks would take in f16
};
CacheMemory cache_memory(const cache::CacheConfig& config, const cache::CacheUsage& usage, const Load& load);

/// All figures in Prometheus' text format, version 0.0.4.
std::string metrics_text(const Load& load, const CacheMemory& memory, std::size_t connections);

}  // namespace kvant::server
