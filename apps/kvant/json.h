#pragma once
#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "cache/kv_cache.h"
#include "eval/cache_pair.h"

namespace kvant::app {

/// What every document says of a cache that was measured: k, v, plan, context, k_bpv, v_bpv, cache_bytes and
/// constant_bytes.
nlohmann::ordered_json cache_json(const eval::CachePair& cache, std::size_t context, const cache::CacheUsage& usage);

/// A document as commands print it: indented, with its line end; bytes that are no valid UTF-8 are replaced.
std::string json_text(const nlohmann::ordered_json& document);

}  // namespace kvant::app
