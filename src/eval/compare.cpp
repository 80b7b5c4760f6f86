#include "eval/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "eval/windows.h"

namespace kvant::eval {
namespace {

using engine::Token;

/// Rows of a forward pass of the noise floor: no divisor of what the reference runs at a time.
constexpr std::size_t kNoiseRows = 50;
constexpr std::size_t kPositionRanges = 4;

/// A cache that is compared with the reference.
struct Subject {
  CachePair spec;
  cache::KvCache cache;
  std::size_t prefill_rows, rows;  ///< of a forward pass, at most: before the scored rows, and of them
  std::vector<TokenScore> scores = {};
};

/// Runs the windows and keeps the scores.
class Comparison {
 public:
  Comparison(engine::Engine& engine, const Windows& windows, const CompareOptions& options)
      : engine_(engine),
        windows_(windows),
        progress_(options.progress),
        reference_(engine.make_cache(options.reference.k, options.reference.v, windows.context())) {
    const std::size_t most = model::Transformer::kMaxRows;
    for (const CachePair& spec : options.caches) add(spec, most, options.decode ? 1 : most);
    if (options.noise_floor) add(options.reference, kNoiseRows, options.decode ? 1 : kNoiseRows);
    total_ = windows.count() * (windows.context() - 1) * (subjects_.size() + 1);
  }

  void run(std::size_t index) {
    window_ = index;
    const std::vector<Token> tokens = windows_.tokens(index);
    const auto unscored = std::span(tokens).first(windows_.first_scored());
    prefill(reference_, unscored, model::Transformer::kMaxRows);
    for (Subject& subject : subjects_) prefill(subject.cache, unscored, subject.prefill_rows);
    for (const auto& [begin, end] : windows_.pieces()) {
      const auto rows = std::span(tokens).subspan(begin, end - begin);
      const auto targets = std::span(tokens).subspan(begin + 1, end - begin);
      run_reference(rows, targets);
      for (Subject& subject : subjects_) run_subject(subject, rows, targets);
    }
  }

  double perplexity() const { return std::exp(loss_ / static_cast<double>(tokens_)); }
  const cache::KvCache& reference() const { return reference_; }
  std::span<const Subject> subjects() const { return subjects_; }

 private:
  void add(const CachePair& spec, std::size_t prefill_rows, std::size_t rows) {
    subjects_.push_back(
        {spec, engine_.make_cache(spec.k, spec.v, windows_.context(), 1, spec.plan.get()), prefill_rows, rows});
    subjects_.back().scores.reserve(windows_.count() * windows_.scored());
  }

  void advance(std::size_t rows) {
    done_ += rows;
    if (!progress_) return;
    progress_(done_, total_, tokens_ > 0 ? fmt::format("PPL {:.4f}", perplexity()) : std::string());
  }

  /// In steps that progress can show; the model would cut at the same rows.
  void prefill(cache::KvCache& cache, std::span<const Token> tokens, std::size_t rows) {
    cache.truncate(0, 0);
    for (std::size_t at = 0; at < tokens.size(); at += rows) {
      const auto step = tokens.subspan(at, std::min(rows, tokens.size() - at));
      engine_.transformer().forward(cache, std::array{model::Input{0, step, 0}});
      advance(step.size());
    }
  }

  MatView<const float> logits(cache::KvCache& cache, std::span<const Token> rows) {
    return engine_.transformer().forward(cache, std::array{model::Input{0, rows, rows.size()}});
  }

  void check_finite(bool finite, const CachePair& spec) const {
    KVANT_CHECK(finite, ErrorCode::format, "{}: logits of chunk {} with cache {} are not finite", engine_.file().path(),
                window_, to_string(spec));
  }

  /// Keeps the logits and what they are normalized by: the next forward pass overwrites them.
  void run_reference(std::span<const Token> rows, std::span<const Token> targets) {
    const MatView<const float> out = logits(reference_, rows);
    kept_.resize(out.rows * out.cols);
    sums_.resize(out.rows);
    const MatView<float> kept{kept_.data(), out.rows, out.cols};
    engine_.pool().run(out.rows, [&](std::size_t r, int) {
      std::copy_n(out.row(r).data(), out.cols, kept.row(r).data());
      sums_[r] = normalize(kept.row(r));
    });
    for (std::size_t r = 0; r < out.rows; ++r) {
      const double loss = -sums_[r].log_probability(kept.row(r), static_cast<std::size_t>(targets[r]));
      check_finite(std::isfinite(loss), {reference_.config().k, reference_.config().v});
      loss_ += loss;
    }
    tokens_ += out.rows;
    advance(out.rows);
  }

  void run_subject(Subject& subject, std::span<const Token> rows, std::span<const Token> targets) {
    for (std::size_t at = 0; at < rows.size(); at += subject.rows) {
      const std::size_t count = std::min(subject.rows, rows.size() - at), scored = subject.scores.size();
      const MatView<const float> out = logits(subject.cache, rows.subspan(at, count));
      const MatView<const float> kept{kept_.data() + at * out.cols, count, out.cols};
      subject.scores.resize(scored + count);
      engine_.pool().run(count, [&](std::size_t r, int) {
        subject.scores[scored + r] =
            compare_rows(kept.row(r), sums_[at + r], out.row(r), static_cast<std::size_t>(targets[at + r]));
      });
      for (std::size_t r = scored; r < scored + count; ++r) {
        check_finite(std::isfinite(subject.scores[r].divergence) && std::isfinite(subject.scores[r].loss_change),
                     subject.spec);
      }
      advance(count);
    }
  }

  engine::Engine& engine_;
  const Windows& windows_;
  const ProgressSink& progress_;
  cache::KvCache reference_;
  std::vector<Subject> subjects_;
  std::vector<float> kept_;       ///< logits of the reference [rows, vocabulary]
  std::vector<Normalizer> sums_;  ///< of each row
  double loss_ = 0;
  std::size_t tokens_ = 0, done_ = 0, total_ = 0;
  std::size_t window_ = 0;
};

CacheResult result_of(const Subject& subject, const Windows& windows, double reference_perplexity) {
  const std::size_t first = windows.first_scored(), scored = windows.scored();
  const auto summary = [&](std::size_t begin, std::size_t end) {
    return summarize(subject.scores, windows.count(), begin - first, end - first);
  };
  const std::size_t end = first + scored;
  CacheResult result;
  result.cache = subject.spec;
  result.all = summary(first, end);
  result.last_quarter = summary(std::min(windows.context() * 3 / 4, end - 1), end);
  const std::size_t parts = std::min(kPositionRanges, scored);
  for (std::size_t i = 0; i < parts; ++i) {
    const std::size_t from = first + scored * i / parts, to = first + scored * (i + 1) / parts;
    const Summary part = summary(from, to);
    result.positions.push_back({from, to, part.kld_mean, part.kld_se});
  }
  result.perplexity = reference_perplexity * result.all.ppl_ratio;
  result.usage = subject.cache.usage();
  return result;
}

}  // namespace

CompareResult compare(engine::Engine& engine, std::span<const Token> text, const CompareOptions& options) {
  const Windows windows(engine, text, options.context, options.chunks);
  Comparison comparison(engine, windows, options);
  for (std::size_t i = 0; i < windows.count(); ++i) comparison.run(i);

  CompareResult result;
  result.context = windows.context();
  result.chunks = windows.count();
  result.tokens = windows.count() * windows.scored();
  result.perplexity = comparison.perplexity();
  result.usage = comparison.reference().usage();
  for (const Subject& subject : comparison.subjects()) {
    result.caches.push_back(result_of(subject, windows, result.perplexity));
  }
  if (options.noise_floor) {
    result.noise_floor = std::move(result.caches.back());
    result.caches.pop_back();
  }
  return result;
}

}  // namespace kvant::eval
