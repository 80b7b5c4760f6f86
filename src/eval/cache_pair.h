#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "codec/spec.h"

namespace kvant::eval {

/// How keys and values are stored.
struct CachePair {
  codec::CacheSpec k = {}, v = {};
  friend bool operator==(const CachePair&, const CachePair&) = default;
};

/// Reads a list "PAIR,PAIR,...", where PAIR is K or K/V; V is f16 where it is not named. K and V are specs
/// (codec/spec.h), which hold commas and slashes themselves: a piece between commas starts a pair unless it holds '=',
/// and a slash separates K from V where a type follows. A file name in a spec can therefore not hold a comma.
/// Throws invalid_argument as codec::parse_cache_spec does.
std::vector<CachePair> parse_cache_list(std::string_view text);

/// "K/V", in the form that parse_cache_list reads.
std::string to_string(const CachePair& pair);

}  // namespace kvant::eval
