#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "codec/plan.h"
#include "codec/spec.h"

namespace kvant::eval {

/// How keys and values are stored.
struct CachePair {
  codec::CacheSpec k = {}, v = {};
  std::shared_ptr<const codec::Plan> plan = {};  ///< for specs of type `plan` that name no file
  friend bool operator==(const CachePair&, const CachePair&) = default;
};

/// The cache that a plan file stands for: type `plan` of that file for the sides that it has codes for, its types for
/// the others. Throws what codec::read_plan throws; invalid_argument when the plan says nothing about either side.
CachePair plan_pair(const std::string& file);

/// Reads a list "PAIR,PAIR,...", where PAIR is K, K/V or plan:FILE; V is f16 where it is not named. K and V are specs
/// (codec/spec.h), which hold commas and slashes themselves: a piece between commas starts a pair unless it holds '=',
/// and a slash separates K from V where a type follows. A file name can therefore not hold a comma. Throws as
/// codec::parse_cache_spec and plan_pair do.
std::vector<CachePair> parse_cache_list(std::string_view text);

/// The plan file that keys or values go by; empty where there is none.
const std::string& plan_file(const CachePair& pair);

/// "K/V", in the form that parse_cache_list reads.
std::string to_string(const CachePair& pair);

}  // namespace kvant::eval
