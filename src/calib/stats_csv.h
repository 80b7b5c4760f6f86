#pragma once
#include <string>

#include "codec/plan.h"

namespace kvant::calib {

/// A plan's statistics of keys as CSV with a header, one row for each layer, KV head and channel (NEOX order):
/// mean, std           of the key before RoPE
/// second_moment       std^2 + mean^2
/// query_weight        second moment of the queries that read the head, before RoPE
/// rank                of std^2 * query_weight within the head, 0 the greatest
/// part                part of the plan's codes that holds most of the channel (of the squares of its column of T);
///                     empty without codes
std::string statistics_csv(const codec::Plan& plan);

}  // namespace kvant::calib
