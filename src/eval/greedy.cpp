#include "eval/greedy.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace kvant::eval {
namespace {

using engine::Token;

/// Texts that take their steps together.
class Texts {
 public:
  Texts(engine::Engine& engine, cache::KvCache& cache, std::size_t count, const GreedyOptions& options)
      : engine_(engine), cache_(cache), options_(options), generated_(count) {}

  /// Runs a prompt and takes the first token after it.
  void start(std::size_t text, std::span<const Token> prompt) {
    const int sequence = static_cast<int>(text);
    cache_.truncate(sequence, 0);
    for (std::size_t at = 0; at < prompt.size();) {
      const auto step = prompt.subspan(at, std::min(model::Transformer::kMaxRows, prompt.size() - at));
      at += step.size();
      const bool last = at == prompt.size();
      const auto logits = forward(std::array{model::Input{sequence, step, last ? 1u : 0u}});
      if (last && take(text, logits.row(0))) running_.push_back(text);
    }
  }

  /// One more token of each text that is not at its end; false when all are.
  bool step() {
    if (running_.empty()) return false;
    std::vector<model::Input> inputs;
    inputs.reserve(running_.size());
    for (const std::size_t text : running_) {
      inputs.push_back({static_cast<int>(text), std::span(generated_[text]).last(1), 1});
    }
    const auto logits = forward(inputs);
    std::vector<std::size_t> still;
    for (std::size_t i = 0; i < running_.size(); ++i) {
      if (take(running_[i], logits.row(i))) still.push_back(running_[i]);
    }
    running_ = std::move(still);
    return true;
  }

  std::vector<std::vector<Token>> generated() && { return std::move(generated_); }

 private:
  MatView<const float> forward(std::span<const model::Input> inputs) {
    const auto logits = engine_.transformer().forward(cache_, inputs);
    std::size_t fed = 0;
    for (const model::Input& input : inputs) fed += input.tokens.size();
    if (options_.on_fed) options_.on_fed(fed);
    return logits;
  }

  /// Adds the most probable token; whether the text goes on after it.
  bool take(std::size_t text, std::span<const float> logits) {
    std::vector<Token>& tokens = generated_[text];
    try {
      const Token token = sampler_.sample(logits, {});
      if (engine_.tokenizer().is_end(token)) return false;
      tokens.push_back(token);
    } catch (const Error& e) {
      throw Error(e.code(), fmt::format("{}: {}", engine_.file().path(), e.what()));
    }
    return tokens.size() < options_.tokens && !(options_.enough && options_.enough(tokens));
  }

  engine::Engine& engine_;
  cache::KvCache& cache_;
  const GreedyOptions& options_;
  engine::Sampler sampler_{engine::SamplerOptions{}};
  std::vector<std::vector<Token>> generated_;
  std::vector<std::size_t> running_;  ///< texts that are not at their end
};

}  // namespace

std::vector<std::vector<Token>> continue_greedily(engine::Engine& engine, cache::KvCache& cache,
                                                  std::span<const std::vector<Token>> prompts,
                                                  const GreedyOptions& options) {
  const auto sequences = static_cast<std::size_t>(cache.config().sequences);
  const std::size_t capacity = cache.config().capacity;
  KVANT_CHECK(prompts.size() <= sequences, ErrorCode::invalid_argument, "{} prompts for a cache of {} sequences",
              prompts.size(), sequences);
  for (const auto& prompt : prompts) {
    KVANT_CHECK(!prompt.empty(), ErrorCode::invalid_argument, "the prompt is empty");
    KVANT_CHECK(prompt.size() <= capacity && options.tokens <= capacity - prompt.size(), ErrorCode::invalid_argument,
                "a prompt of {} tokens and {} new ones, for a context of {}", prompt.size(), options.tokens, capacity);
  }
  if (options.tokens == 0) return std::vector<std::vector<Token>>(prompts.size());
  Texts texts(engine, cache, prompts.size(), options);
  for (std::size_t i = 0; i < prompts.size(); ++i) texts.start(i, prompts[i]);
  while (texts.step()) {
  }
  return std::move(texts).generated();
}

std::size_t texts_together(std::size_t length, std::size_t count) {
  return std::clamp<std::size_t>(kTogetherTokens / std::max<std::size_t>(length, 1), 1,
                                 std::clamp<std::size_t>(count, 1, kTogether));
}

}  // namespace kvant::eval
