#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "cache/kv_cache.h"
#include "codec/plan.h"
#include "engine/sampler.h"
#include "gguf/reader.h"
#include "model/transformer.h"
#include "tokenizer/tokenizer.h"

namespace kvant::engine {

using tokenizer::Token;

/// Everything that is loaded once for a model file: mapped weights, tokenizer, thread pool, forward pass.
class Engine {
 public:
  struct Options {
    int threads = 0;  ///< 0: all processors
    Isa isa = Isa::scalar;
    kernels::Precision precision = kernels::Precision::fast;
  };
  /// Opens a model. Throws kvant::Error as the readers do.
  Engine(const std::string& path, const Options& options);
  ~Engine();

  const gguf::File& file() const noexcept;
  const model::ModelConfig& config() const noexcept;
  const model::Weights& weights() const noexcept;
  const tokenizer::Tokenizer& tokenizer() const noexcept;
  model::Transformer& transformer() noexcept;
  ThreadPool& pool() noexcept;

  struct CacheOptions {
    codec::CacheSpec k, v;
    /// The most tokens of one sequence. 0: the context that the model was trained for, or its sliding window where that
    /// is shorter; a longer one than it was trained for is allowed.
    std::size_t context = 0;
    int sequences = 1;
    /// Bytes that keys and values of all sequences may take, of which as many blocks are made as fit; 0: what the
    /// sequences take at full length.
    std::size_t pool_bytes = 0;
    const codec::Plan* plan = nullptr;  ///< what specs of type `plan` go by that name no file
  };
  /// A cache for this model. Throws out_of_memory naming the bytes asked for when the machine has not that much, or
  /// those needed when the pool has no room for one block; unsupported when the context exceeds the model's sliding
  /// window.
  cache::KvCache make_cache(const CacheOptions& options);
  /// The same without a pool.
  cache::KvCache make_cache(const codec::CacheSpec& k, const codec::CacheSpec& v, std::size_t context,
                            int sequences = 1, const codec::Plan* plan = nullptr);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What a generation took.
struct GenerateResult {
  std::vector<Token> tokens;  ///< the new tokens, without the end token
  std::size_t prompt_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;  ///< of tokens.size() - 1 forward passes: the first token comes from the prompt's
  enum class Stop { length, end_token, context_full, cancelled } stop = Stop::length;
};

/// One conversation: a cache with one sequence and its tokens. The cache may hold fewer than tokens(): what is missing
/// (a token that nothing followed yet, the rest of a cancelled prompt) is computed when the conversation goes on.
class Session {
 public:
  Session(Engine& engine, cache::KvCache cache);

  struct Options {
    std::size_t max_tokens = 128;
    SamplerOptions sampler = {};
    bool stop_at_end = true;                    ///< end tokens end the generation
    const std::atomic<bool>* cancel = nullptr;  ///< looked at between chunks of the prompt and between tokens
    std::function<void(Token)> on_token = {};   ///< called for each new token
    std::function<void(std::size_t done, std::size_t total)> on_prefill = {};
  };
  /// Appends `prompt` and generates. Afterwards, however it stopped, tokens() is what it was, then the prompt, then the
  /// new tokens; an end token is not among them, so the next turn's prompt starts by closing this one. BOS is the
  /// caller's to add. Throws invalid_argument when the prompt is empty or does not fit.
  GenerateResult generate(std::span<const Token> prompt, const Options& options);

  const std::vector<Token>& tokens() const noexcept { return tokens_; }
  const cache::KvCache& cache() const noexcept { return cache_; }

 private:
  /// Runs the next `count` tokens that the cache lacks; the logits of the last one where it ends the conversation.
  MatView<const float> feed(std::size_t count);

  Engine* engine_;
  cache::KvCache cache_;
  std::vector<Token> tokens_;
};

}  // namespace kvant::engine
