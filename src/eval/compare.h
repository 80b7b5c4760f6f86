#pragma once
#include <cstddef>
#include <optional>
#include <span>
#include <string>
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
  /// For each cache, or for none: the first layer that it does not store as the reference does. Layers below are then
  /// not computed again; the results are the same. Not with `decode` or a file as reference.
  std::vector<int> differs_from = {};
  /// Feeds the scored rows to the caches one token at a time, as when text is generated; the reference takes them
  /// together.
  bool decode = false;
  /// Also compares the reference with itself, run in pieces of other lengths.
  bool noise_floor = false;
  /// A file that takes the reference's place (eval/logits_file.h). Context and chunks are then the file's, and neither
  /// noise_floor nor save_logits can be had.
  std::string logits = {};
  /// Where the reference's logits are written as such a file; empty: nowhere.
  std::string save_logits = {};
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

/// What figures against a file are good for, since it holds log-probabilities in 16 bits.
struct FileFloor {
  double step = 0;           ///< the largest of its rows, nats: losses are off by up to half of it
  double divergence = 0;     ///< what rounding makes of a divergence of 0 at most: mean of step^2 / 8 over the rows
  double bounded_share = 0;  ///< mean probability of the tokens that a row only bounds; no divergence counts them
  std::size_t bounded = 0;   ///< scored tokens with such a true token: their loss under the reference is a bound
};

struct CompareResult {
  std::size_t context = 0;
  std::size_t chunks = 0;
  std::size_t tokens = 0;           ///< scored per cache
  double perplexity = 0;            ///< of the reference
  cache::CacheUsage usage;          ///< of the reference; nothing where it is a file
  std::vector<CacheResult> caches;  ///< in the order of the options
  std::optional<CacheResult> noise_floor;
  std::optional<FileFloor> file_floor;  ///< where the reference is a file
};

/// Runs the reference and all caches side by side over the windows of a text (eval/windows.h) and compares their logits
/// token by token. Memory beside the engine's: all caches at `context` tokens; one piece of the reference's logits
/// (Windows::kLogitBytes), as large as the transformer's own; 16 bytes for each scored token of each cache.
/// Throws invalid_argument, naming both counts, when the text holds less than one window or context is below 3; format,
/// naming the cache and the chunk, when logits are not finite; invalid_argument, naming file, field and both values,
/// when a logits file is of another vocabulary or text; what Engine::make_cache, LogitsReader and LogitsWriter throw.
CompareResult compare(engine::Engine& engine, std::span<const engine::Token> text, const CompareOptions& options);

}  // namespace kvant::eval
