#pragma once
#include <cstddef>
#include <vector>

#include "base/thread_pool.h"
#include "model/config.h"
#include "model/weights.h"

namespace kvant::model {

/// What an error e of a stored value costs, e^T M e, as far as the weights know: M = sum of W_o^T W_o over the columns
/// of the query heads that read a KV head. For each layer [kv_heads][head_dim][head_dim]. Rows of W_o are sampled at
/// even distances where they and the heads of a group make more than kMetricSamples. The same bits on every machine.
/// Throws format when weights are not finite.
std::vector<std::vector<float>> value_metrics(const ModelConfig& config, const Weights& weights, ThreadPool& pool);

/// Vectors that the metric of a KV head is made from at most.
inline constexpr std::size_t kMetricSamples = 2048;

}  // namespace kvant::model
