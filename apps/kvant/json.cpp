#include "json.h"

#include <nlohmann/json.hpp>

namespace kvant::app {

using nlohmann::ordered_json;

ordered_json cache_json(const eval::CachePair& cache, std::size_t context, const cache::CacheUsage& usage) {
  const std::string& plan = eval::plan_file(cache);
  return {{"k", codec::to_string(cache.k)},
          {"v", codec::to_string(cache.v, codec::PageSide::value)},
          {"plan", plan.empty() ? ordered_json(nullptr) : ordered_json(plan)},
          {"context", context},
          {"k_bpv", usage.k_bpv},
          {"v_bpv", usage.v_bpv},
          {"cache_bytes", usage.bytes()},
          {"constant_bytes", usage.constant_bytes}};
}

std::string json_text(const ordered_json& document) {
  return document.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace kvant::app
