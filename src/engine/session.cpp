#include <algorithm>
#include <array>
#include <utility>

#include "base/clock.h"
#include "base/error.h"
#include "engine/engine.h"

namespace kvant::engine {

Session::Session(Engine& engine, cache::KvCache cache) : engine_(&engine), cache_(std::move(cache)) {}

GenerateResult Session::generate(std::span<const Token> prompt, const Options& options) {
  const std::size_t capacity = cache_.config().capacity;
  KVANT_CHECK(!prompt.empty(), ErrorCode::invalid_argument, "the prompt is empty");
  KVANT_CHECK(prompt.size() <= capacity - tokens_.size(), ErrorCode::invalid_argument,
              "the prompt has {} tokens, but {} of the context's {} are in use", prompt.size(), tokens_.size(),
              capacity);
  Sampler sampler(options.sampler);
  const tokenizer::Tokenizer& tokenizer = engine_->tokenizer();
  const auto cancelled = [&] { return options.cancel != nullptr && options.cancel->load(std::memory_order_relaxed); };

  GenerateResult result;
  result.prompt_tokens = prompt.size();
  tokens_.insert(tokens_.end(), prompt.begin(), prompt.end());

  Stopwatch watch;
  MatView<const float> logits;
  const std::size_t already = cache_.length(0), total = tokens_.size() - already;
  while (cache_.length(0) < tokens_.size()) {
    if (cancelled()) {
      result.stop = GenerateResult::Stop::cancelled;
      result.prefill_seconds = watch.seconds();
      return result;
    }
    logits = feed(std::min(tokens_.size() - cache_.length(0), model::Transformer::kMaxRows));
    if (options.on_prefill) options.on_prefill(cache_.length(0) - already, total);
  }
  result.prefill_seconds = watch.seconds();

  watch.restart();
  result.stop = GenerateResult::Stop::length;
  while (result.tokens.size() < options.max_tokens) {
    if (cancelled()) {
      result.stop = GenerateResult::Stop::cancelled;
      break;
    }
    if (tokens_.size() == capacity) {
      result.stop = GenerateResult::Stop::context_full;
      break;
    }
    if (cache_.length(0) < tokens_.size()) logits = feed(1);
    const Token token = sampler.sample(logits.row(0), tokens_);
    if (options.stop_at_end && tokenizer.is_end(token)) {
      result.stop = GenerateResult::Stop::end_token;
      break;
    }
    tokens_.push_back(token);
    result.tokens.push_back(token);
    if (options.on_token) options.on_token(token);
  }
  result.decode_seconds = watch.seconds();
  return result;
}

MatView<const float> Session::feed(std::size_t count) {
  const std::size_t length = cache_.length(0);
  const std::span<const Token> next(tokens_.data() + length, count);
  const bool last = length + count == tokens_.size();
  try {
    return engine_->transformer().forward(cache_, std::array{model::Input{0, next, last ? 1u : 0u}});
  } catch (...) {
    cache_.truncate(0, length);  // some layers may hold the tokens already
    throw;
  }
}

}  // namespace kvant::engine
