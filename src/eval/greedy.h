#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "engine/engine.h"

namespace kvant::eval {

/// How texts are continued.
struct GreedyOptions {
  std::size_t tokens = 0;  ///< new tokens of each text, at most
  /// Whether a text needs no more tokens after these new ones; empty: none is done before its end.
  std::function<bool(std::span<const engine::Token> generated)> enough = {};
  /// Told how many tokens each forward pass has fed to the model.
  std::function<void(std::size_t fed)> on_fed = {};
};

/// The most probable continuation of each prompt, token by token (ties to the lower id), up to a token that ends
/// generation, which is left out. Prompt i runs in sequence i of `cache`, which forgets what it held; the texts take
/// their steps together, since one pass over the weights serves all. Every prompt must hold a token and fit with
/// options.tokens into the cache's capacity; throws invalid_argument, naming both counts, where one does not; format,
/// naming the model, when a row has no finite logit.
std::vector<std::vector<engine::Token>> continue_greedily(engine::Engine& engine, cache::KvCache& cache,
                                                          std::span<const std::vector<engine::Token>> prompts,
                                                          const GreedyOptions& options);

/// How many texts of `length` tokens are run at once out of `count`: memory for kTogetherTokens tokens in all, or one
/// text where that is more; at most kTogether.
std::size_t texts_together(std::size_t length, std::size_t count);
inline constexpr std::size_t kTogetherTokens = 16384, kTogether = 16;

}  // namespace kvant::eval
