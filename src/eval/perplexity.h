#pragma once
#include <cstddef>
#include <span>

#include "base/progress.h"
#include "codec/spec.h"
#include "engine/engine.h"

namespace kvant::eval {

struct PerplexityOptions {
  std::size_t context = 512;
  std::size_t chunks = 0;  ///< 0: all
  codec::CacheSpec k = {}, v = {};
  ProgressSink progress = {};
};

struct PerplexityResult {
  double perplexity = 0;
  double standard_error = 0;  ///< of the perplexity: perplexity * se(mean negative log likelihood)
  std::size_t chunks = 0;
  std::size_t tokens = 0;  ///< tokens scored
  cache::CacheUsage usage;
};

/// Perplexity with the chunk protocol of llama-perplexity: the text is cut into windows of `context` tokens; in each,
/// the first token is replaced by BOS where the vocabulary adds one; tokens from context/2 on are scored, each given
/// all tokens of its window before it (the window's last token is only a target). Throws invalid_argument, naming both
/// counts, when the text holds less than one window or context is below 3; format, naming the chunk, when logits are
/// not finite. A context beyond the one the model was trained for is allowed. Standard error: that of the mean of
/// `tokens` independent negative log likelihoods, times the perplexity.
PerplexityResult perplexity(engine::Engine& engine, std::span<const engine::Token> text,
                            const PerplexityOptions& options);

}  // namespace kvant::eval
