#pragma once
#include <cstddef>

#include "base/progress.h"
#include "cache/kv_cache.h"
#include "codec/spec.h"
#include "engine/engine.h"

namespace kvant::bench {

struct SpeedOptions {
  std::size_t depth = 0;        ///< tokens that the cache holds beforehand
  std::size_t prompt = 512;     ///< tokens of the prefill that is timed; 0: none
  std::size_t tokens = 128;     ///< tokens that are decoded one by one; 0: none
  std::size_t repetitions = 3;  ///< >= 1; the medians are reported
  codec::CacheSpec k, v;
  ProgressSink progress;  ///< in repetitions
};

/// Medians over the repetitions. Rates are 0 where nothing was timed.
struct SpeedResult {
  double prefill_tps = 0;
  double prefill_gflops = 0;  ///< 2 * values of the weight matrices * tokens / time, without attention
  double decode_ms = 0;       ///< per token, and the two parts of it that follow
  double weights_ms = 0;
  double attention_ms = 0;
  double decode_gb_s = 0;  ///< weights and cache read for a token, over its time
  double create_ms = 0;    ///< making the cache, its constants from weights or plan included
  cache::CacheUsage usage;
  std::size_t rss_bytes = 0;  ///< resident memory of the process, mapped weights included
};

/// Times prefill and decode of a model with a cache that already holds `depth` random tokens. They are appended to the
/// cache layer by layer without running the model, so that great depths cost little.
SpeedResult measure_speed(engine::Engine& engine, const SpeedOptions& options);

/// Values of all weight matrices that one prompt token passes through, the head aside (it sees the last one only).
double matrix_values(const model::Weights& weights);

/// Resident memory of this process; 0 where the system does not tell.
std::size_t resident_bytes();

}  // namespace kvant::bench
