#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <vector>

#include "base/progress.h"
#include "engine/engine.h"
#include "eval/cache_pair.h"
#include "eval/metrics.h"

namespace kvant::eval {

struct CompareOptions {
  std::size_t context = 512;
  std::size_t chunks = 0;  ///< 0: all
  CachePair reference = {};
  std::vector<CachePair> caches = {};
  /// Feeds the scored rows to the caches one token at a time, as when text is generated; the reference takes them
  /// together.
  bool decode = false;
  /// Also compares the reference with itself, run in pieces of other lengths.
  bool noise_floor = false;
  /// Counts tokens fed to the model, of all caches together.
  ProgressSink progress = {};
};

/// Mean divergence of the scored tokens at positions [begin, end) of their windows.
struct PositionRange {
  std::size_t begin = 0, end = 0;
  double kld_mean = 0, kld_se = 0;
};

/// What a cache costs against the reference.
struct CacheResult {
  CachePair cache;
  Summary all;
  Summary last_quarter;                  ///< positions from 3/4 of the context on
  std::vector<PositionRange> positions;  ///< the scored half in up to four equal parts
  double perplexity = 0;
  cache::CacheUsage usage;
};

struct CompareResult {
  std::size_t context = 0;
  std::size_t chunks = 0;
  std::size_t tokens = 0;           ///< scored per cache
  double perplexity = 0;            ///< of the reference
  cache::CacheUsage usage;          ///< of the reference
  std::vector<CacheResult> caches;  ///< in the order of the options
  std::optional<CacheResult> noise_floor;
};

/// Runs the reference and all caches side by side over the windows of a text (eval/windows.h) and compares their logits
/// token by token. Memory beside the engine's: all caches at `context` tokens; one piece of the reference's logits
/// (Windows::kLogitBytes), as large as the transformer's own; 16 bytes for each scored token of each cache.
/// Throws invalid_argument, naming both counts, when the text holds less than one window or context is below 3; format,
/// naming the cache and the chunk, when logits are not finite; what Engine::make_cache throws.
CompareResult compare(engine::Engine& engine, std::span<const engine::Token> text, const CompareOptions& options);

}  // namespace kvant::eval
