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
  const model::ModelConfig& config = impl_->config;
  const std::size_t longest = config.window > 0 ? std::min(config.window, config.context) : config.context;
  const std::size_t capacity = context > 0 ? context : longest;
  KVANT_CHECK(config.window == 0 || capacity <= config.window, ErrorCode::unsupported,
              "{}: a context of {} tokens exceeds the model's sliding window of {}, and sliding windows are not "
              "supported",
              impl_->file.path(), capacity, config.window);
  cache::CacheConfig sizes = impl_->transformer.cache_config(capacity, sequences);
  sizes.k = k;
  sizes.v = v;
  sizes.constants = model::load_cache_constants(config, impl_->weights, k, v, impl_->pool, plan);
  return {sizes, impl_->pool, impl_->isa};
}

}  // namespace kvant::engine
