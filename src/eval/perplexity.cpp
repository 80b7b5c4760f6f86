#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"

namespace kvant::eval {
namespace {

/// Logits held at a time: a window's scored half is run in pieces of this size.
constexpr std::size_t kLogitBytes = std::size_t{128} << 20;

/// -log softmax(logits)[target], in double. NaN or infinite when the logits are.
double negative_log_likelihood(std::span<const float> logits, engine::Token target) {
  const float top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - top);
  return std::log(sum) + top - logits[static_cast<std::size_t>(target)];
}

/// Scores windows and keeps the sums.
class Scorer {
 public:
  Scorer(engine::Engine& engine, std::size_t context)
      : engine_(engine),
        context_(context),
        piece_rows_(std::clamp<std::size_t>(kLogitBytes / (sizeof(float) * engine.config().vocabulary), 16,
                                            model::Transformer::kMaxRows)) {}

  /// Scores the second half of a window; `chunk` is for errors.
  void add(cache::KvCache& cache, std::span<const engine::Token> window, std::size_t chunk) {
    cache.truncate(0, 0);
    const std::size_t first = context_ / 2, last = context_ - 1;  // rows with a target to score
    engine_.transformer().forward(cache, std::array{model::Input{0, window.first(first), 0}});
    const std::size_t pieces = (last - first + piece_rows_ - 1) / piece_rows_;
    for (std::size_t i = 0; i < pieces; ++i) {
      const std::size_t begin = first + (last - first) * i / pieces, end = first + (last - first) * (i + 1) / pieces;
      const auto tokens = window.subspan(begin, end - begin);
      score(engine_.transformer().forward(cache, std::array{model::Input{0, tokens, tokens.size()}}),
            window.subspan(begin + 1, end - begin), chunk);
    }
  }

  std::size_t tokens() const { return tokens_; }
  double perplexity() const { return std::exp(mean()); }
  double standard_error() const {
    if (tokens_ < 2) return 0;
    const double variance = sum_squares_ / static_cast<double>(tokens_) - mean() * mean();
    return std::sqrt(std::max(0.0, variance) / static_cast<double>(tokens_ - 1)) * perplexity();
  }

 private:
  double mean() const { return sum_ / static_cast<double>(tokens_); }

  void score(MatView<const float> logits, std::span<const engine::Token> targets, std::size_t chunk) {
    std::vector<double> losses(targets.size());
    engine_.pool().run(targets.size(),
                       [&](std::size_t r, int) { losses[r] = negative_log_likelihood(logits.row(r), targets[r]); });
    for (const double loss : losses) {
      KVANT_CHECK(std::isfinite(loss), ErrorCode::format, "{}: logits of chunk {} are not finite",
                  engine_.file().path(), chunk);
      sum_ += loss;
      sum_squares_ += loss * loss;
    }
    tokens_ += losses.size();
  }

  engine::Engine& engine_;
  std::size_t context_;
  std::size_t piece_rows_;
  double sum_ = 0, sum_squares_ = 0;
  std::size_t tokens_ = 0;
};

}  // namespace

PerplexityResult perplexity(engine::Engine& engine, std::span<const engine::Token> text,
                            const PerplexityOptions& options) {
  const std::size_t context = options.context;
  KVANT_CHECK(context >= 3, ErrorCode::invalid_argument, "a context of {} tokens is too short, at least 3 are needed",
              context);
  KVANT_CHECK(text.size() >= context, ErrorCode::invalid_argument, "the text has {} tokens, less than one window of {}",
              text.size(), context);
  const std::size_t available = text.size() / context;
  const std::size_t chunks = options.chunks == 0 ? available : std::min(options.chunks, available);

  cache::KvCache cache = engine.make_cache(options.k, options.v, context);
  Scorer scorer(engine, context);
  std::vector<engine::Token> window;
  for (std::size_t chunk = 0; chunk < chunks; ++chunk) {
    const auto source = text.subspan(chunk * context, context);
    window.assign(source.begin(), source.end());
    if (engine.tokenizer().add_bos()) window.front() = engine.tokenizer().bos();
    scorer.add(cache, window, chunk);
    if (options.progress) options.progress(chunk + 1, chunks, fmt::format("PPL {:.4f}", scorer.perplexity()));
  }

  PerplexityResult result;
  result.perplexity = scorer.perplexity();
  result.standard_error = scorer.standard_error();
  result.chunks = chunks;
  result.tokens = scorer.tokens();
  result.usage = cache.usage();
  return result;
}

}  // namespace kvant::eval
