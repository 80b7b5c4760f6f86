#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/progress.h"
#include "engine/engine.h"
#include "eval/cache_pair.h"
#include "eval/metrics.h"
#include "eval/scripts.h"

namespace kvant::eval {

struct AgreementOptions {
  std::vector<std::vector<engine::Token>> prompts = {};
  std::size_t tokens = 128;  ///< generated after each prompt, at most
  CachePair reference = {};
  std::vector<CachePair> caches = {};
  /// Counts tokens fed to the model, of all caches together.
  ProgressSink progress = {};
};

/// One prompt continued with a cache, against the same with the reference.
struct Continuation {
  std::vector<engine::Token> tokens;
  std::size_t agreement = 0;  ///< tokens before the first difference, all where there is none
  bool identical = false;     ///< the same tokens and the same end
  double same = 0;            ///< share of places, of the longer text, with the same token; 1 for two empty texts
  std::size_t characters = 0, foreign = 0;  ///< of the text; those of scripts that the reference's text does not use
};

/// A mean over prompts and its standard error.
struct Estimate {
  double mean = 0, se = 0;
};

struct AgreementResult {
  CachePair cache;
  std::vector<Continuation> continuations;  ///< of each prompt
  Estimate length;                          ///< Continuation::agreement
  double length_median = 0;
  double identical = 0;  ///< share of prompts
  Interval identical_range;
  Estimate same;            ///< Continuation::same
  Estimate script_errors;   ///< foreign characters over characters, of all prompts together
  cache::CacheUsage usage;  ///< of one text
};

struct Agreement {
  /// Of each cache: room for the longest prompt and what is generated, in steps of 512 tokens.
  std::size_t context = 0;
  std::vector<std::vector<engine::Token>> reference;  ///< what the reference generated
  cache::CacheUsage usage;                            ///< of the reference, one text
  std::vector<AgreementResult> caches;                ///< in the order of the options
};

/// How a continuation differs from the reference's.
Continuation compare_continuations(const tokenizer::Tokenizer& tokenizer, const Scripts& scripts,
                                   std::span<const engine::Token> reference, std::vector<engine::Token> other);

/// Continues every prompt greedily with the reference and with each cache. Errors are standard errors over prompts
/// (standard_error() with one block for each). Memory beside the engine's: one cache at a time with room for
/// texts_together() texts (eval/greedy.h); all generated tokens. Throws invalid_argument when there is no prompt, an
/// empty one, or nothing to generate, and as Engine::make_cache and continue_greedily do.
Agreement agreement(engine::Engine& engine, const AgreementOptions& options);

}  // namespace kvant::eval
