#pragma once
#include <cstddef>
#include <vector>

#include "base/progress.h"
#include "bench/roofline.h"
#include "cache/kv_cache.h"
#include "codec/spec.h"
#include "engine/engine.h"

namespace kvant::bench {

/// How the keys and values of a cache are stored.
struct CacheTypes {
  codec::CacheSpec k, v;
};

struct SpeedOptions {
  std::vector<CacheTypes> caches;      ///< at least one
  std::vector<std::size_t> depths{0};  ///< tokens that the cache holds beforehand
  std::size_t prompt = 512;            ///< tokens of the prefill that is timed; 0: none
  std::size_t tokens = 128;            ///< tokens that are decoded one by one; 0: none
  std::size_t repetitions = 3;         ///< >= 1; the medians are reported
  ProgressSink progress;               ///< in measurements: of a repetition, a cache and a depth
};

/// Medians over the repetitions, of decoding over all their tokens. Rates are 0 where nothing was timed.
struct SpeedResult {
  double prefill_tps = 0;
  double prefill_gflops = 0;  ///< 2 * values of the weight matrices * tokens / time, without attention
  double decode_ms = 0;       ///< per token, and the two parts of it that follow
  double weights_ms = 0;
  double attention_ms = 0;
  double decode_gb_s = 0;     ///< weights and cache read for a token, over its time
  double length = 0;          ///< tokens in the cache, the mean over the decoded ones
  double create_ms = 0;       ///< making the cache, its constants from weights or plan included
  double cache_bytes = 0;     ///< of what the cache holds at the end
  cache::CacheUsage usage;    ///< of the whole cache, which holds the greatest depth
  std::size_t rss_bytes = 0;  ///< resident memory of the process, mapped weights included
};

struct SpeedRow {
  std::size_t cache;  ///< index in SpeedOptions::caches
  std::size_t depth;
  SpeedResult speed;
};

/// Times prefill and decode of a model with caches that already hold so many random tokens, which are appended layer by
/// layer without running the model, so that great depths cost little. Every repetition takes all caches in turn, so
/// that what else the machine does falls on all of them alike. One row for each depth and cache, in this order.
std::vector<SpeedRow> measure_speed(engine::Engine& engine, const SpeedOptions& options);

/// What attention of one decoded token needs at the least.
struct AttentionWork {
  double bytes = 0;            ///< of keys and values, each read once
  double f32_operations = 0;   ///< products and sums over plain types: 2 a key or value and query head
  double int8_operations = 0;  ///< over codes
};
AttentionWork attention_work(const model::ModelConfig& config, const CacheTypes& cache, const SpeedResult& speed);

/// The times of this work in ms at the machine's peaks: memory and arithmetic can overlap, so the longer one is a
/// floor.
struct AttentionFloor {
  double memory_ms = 0, compute_ms = 0;
};
AttentionFloor attention_floor(const AttentionWork& work, const Roofline& peak);

/// Values of all weight matrices that one prompt token passes through, the head aside (it sees the last one only).
double matrix_values(const model::Weights& weights);

/// Resident memory of this process; 0 where the system does not tell.
std::size_t resident_bytes();

}  // namespace kvant::bench
