#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "eval/metrics.h"
#include "eval/windows.h"

namespace kvant::eval {
namespace {

/// Scores windows and keeps the sums.
class Scorer {
 public:
  Scorer(engine::Engine& engine, const Windows& windows) : engine_(engine), windows_(windows) {}

  /// Scores the second half of a window.
  void add(cache::KvCache& cache, std::size_t index) {
    cache.truncate(0, 0);
    const std::vector<engine::Token> tokens = windows_.tokens(index);
    const std::span<const engine::Token> window(tokens);
    engine_.transformer().forward(cache, std::array{model::Input{0, window.first(windows_.first_scored()), 0}});
    for (const auto& [begin, end] : windows_.pieces()) {
      const auto rows = window.subspan(begin, end - begin);
      score(engine_.transformer().forward(cache, std::array{model::Input{0, rows, rows.size()}}),
            window.subspan(begin + 1, end - begin), index);
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
    engine_.pool().run(targets.size(), [&](std::size_t r, int) {
      losses[r] = -normalize(logits.row(r)).log_probability(logits.row(r), static_cast<std::size_t>(targets[r]));
    });
    for (const double loss : losses) {
      KVANT_CHECK(std::isfinite(loss), ErrorCode::format, "{}: logits of chunk {} are not finite",
                  engine_.file().path(), chunk);
      sum_ += loss;
      sum_squares_ += loss * loss;
    }
    tokens_ += losses.size();
  }

  engine::Engine& engine_;
  const Windows& windows_;
  double sum_ = 0, sum_squares_ = 0;
  std::size_t tokens_ = 0;
};

}  // namespace

PerplexityResult perplexity(engine::Engine& engine, std::span<const engine::Token> text,
                            const PerplexityOptions& options) {
  const Windows windows(engine, text, options.context, options.chunks);
  cache::KvCache cache = engine.make_cache(options.k, options.v, options.context);
  Scorer scorer(engine, windows);
  for (std::size_t i = 0; i < windows.count(); ++i) {
    scorer.add(cache, i);
    if (options.progress) options.progress(i + 1, windows.count(), fmt::format("PPL {:.4f}", scorer.perplexity()));
  }

  PerplexityResult result;
  result.perplexity = scorer.perplexity();
  result.standard_error = scorer.standard_error();
  result.chunks = windows.count();
  result.tokens = scorer.tokens();
  result.usage = cache.usage();
  return result;
}

}  // namespace kvant::eval
