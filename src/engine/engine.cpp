#include "engine/engine.h"

#include <algorithm>

#include "base/error.h"
#include "model/plans.h"

namespace kvant::engine {

struct Engine::Impl {
  Impl(const std::string& path, const Options& options)
      : file(gguf::File::open(path)),
        config(model::read_config(file)),
        weights(model::load_weights(file, config)),
        tokenizer(tokenizer::Tokenizer::from(file)),
        isa(options.isa),
        pool(options.threads),
        transformer(config, weights, pool, isa, options.precision) {
    KVANT_CHECK(tokenizer.size() == config.vocabulary, ErrorCode::format,
                "{}: the tokenizer has {} tokens, tensor token_embd.weight has {} rows", path, tokenizer.size(),
                config.vocabulary);
  }

  gguf::File file;
  model::ModelConfig config;
  model::Weights weights;
  tokenizer::Tokenizer tokenizer;
  Isa isa;
  ThreadPool pool;
  model::Transformer transformer;
};

Engine::Engine(const std::string& path, const Options& options) : impl_(std::make_unique<Impl>(path, options)) {}
Engine::~Engine() = default;

const gguf::File& Engine::file() const noexcept { return impl_->file; }
const model::ModelConfig& Engine::config() const noexcept { return impl_->config; }
const model::Weights& Engine::weights() const noexcept { return impl_->weights; }
const tokenizer::Tokenizer& Engine::tokenizer() const noexcept { return impl_->tokenizer; }
model::Transformer& Engine::transformer() noexcept { return impl_->transformer; }
ThreadPool& Engine::pool() noexcept { return impl_->pool; }

cache::KvCache Engine::make_cache(const codec::CacheSpec& k, const codec::CacheSpec& v, std::size_t context,
                                  int sequences, const codec::Plan* plan) {
  return make_cache({.k = k, .v = v, .context = context, .sequences = sequences, .plan = plan});
}

cache::KvCache Engine::make_cache(const CacheOptions& options) {
  const model::ModelConfig& config = impl_->config;
  const std::size_t longest = config.window > 0 ? std::min(config.window, config.context) : config.context;
  const std::size_t capacity = options.context > 0 ? options.context : longest;
  KVANT_CHECK(config.window == 0 || capacity <= config.window, ErrorCode::unsupported,
              "{}: a context of {} tokens exceeds the model's sliding window of {}, and sliding windows are not "
              "supported",
              impl_->file.path(), capacity, config.window);
  cache::CacheConfig sizes = impl_->transformer.cache_config(capacity, options.sequences);
  sizes.k = options.k;
  sizes.v = options.v;
  sizes.constants =
      model::load_cache_constants(config, impl_->weights, options.k, options.v, impl_->pool, options.plan);
  sizes.model = model::weights_identity(impl_->file);
  if (options.pool_bytes > 0) {
    const std::size_t all = sizes.blocks() * cache::KvCache::kBlockTokens;
    sizes.pool_tokens = std::min(all, cache::pool_tokens_within(sizes, options.pool_bytes, impl_->isa));
    if (sizes.pool_tokens == 0) {
      sizes.pool_tokens = cache::KvCache::kBlockTokens;
      fail(ErrorCode::out_of_memory, "a cache pool of {} bytes has no room for {} tokens, which take {} bytes",
           options.pool_bytes, sizes.pool_tokens, cache::planned_usage(sizes, impl_->isa).bytes());
    }
  }
  return {sizes, impl_->pool, impl_->isa};
}

}  // namespace kvant::engine
