#include "eval/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "eval/logits_file.h"
#include "eval/windows.h"

namespace kvant::eval {
namespace {

using engine::Token;

/// Rows of a forward pass of the noise floor: no divisor of what the reference runs at a time.
constexpr std::size_t kNoiseRows = 50;
constexpr std::size_t kPositionRanges = 4;

/// Sum of the probabilities of the tokens above a log-probability.
double probability_above(std::span<const float> log_probability, float floor) {
  double sum = 0;
  for (const float log_p : log_probability) sum += log_p > floor ? std::exp(static_cast<double>(log_p)) : 0;
  return sum;
}

/// A cache that is compared with the reference.
struct Subject {
  CachePair spec;
  cache::KvCache cache;
  std::size_t prefill_rows, rows;  ///< of a forward pass, at most: before the scored rows, and of them
  int differs_from = 0;            ///< the reference's passes are replayed from this layer on; 0: not
  std::vector<TokenScore> scores = {};
};

/// Runs the windows and keeps the scores.
class Comparison {
 public:
  /// The reference is `file`, or runs and is written to `saved` where that is not null.
  Comparison(engine::Engine& engine, const Windows& windows, const CompareOptions& options, LogitsReader* file,
             LogitsWriter* saved)
      : engine_(engine),
        windows_(windows),
        progress_(options.progress),
        reference_spec_(options.reference),
        file_(file),
        saved_(saved) {
    if (!file) reference_.emplace(make_cache(options.reference));
    const std::size_t most = model::Transformer::kMaxRows;
    for (const CachePair& spec : options.caches) add(spec, most, options.decode ? 1 : most);
    for (std::size_t i = 0; i < options.differs_from.size(); ++i) {
      subjects_[i].differs_from = options.differs_from[i];
      if (options.differs_from[i] > 0 && !recording_) recording_.emplace();
    }
    if (options.noise_floor) add(options.reference, kNoiseRows, options.decode ? 1 : kNoiseRows);
    total_ = windows.count() * (windows.context() - 1) * (subjects_.size() + (file ? 0 : 1));
  }

  void run(std::size_t index) {
    window_ = index;
    const std::vector<Token> tokens = windows_.tokens(index);
    const auto unscored = std::span(tokens).first(windows_.first_scored());
    if (reference_) prefill_reference(unscored);
    for (Subject& subject : subjects_) {
      if (subject.differs_from == 0) prefill(subject.cache, unscored, subject.prefill_rows);
    }
    for (const auto& [begin, end] : windows_.pieces()) {
      const auto rows = std::span(tokens).subspan(begin, end - begin);
      const auto targets = std::span(tokens).subspan(begin + 1, end - begin);
      file_ ? read_reference(targets) : run_reference(rows, targets);
      for (Subject& subject : subjects_) run_subject(subject, rows, targets);
    }
  }

  double perplexity() const { return std::exp(loss_ / static_cast<double>(tokens_)); }
  cache::CacheUsage reference_usage() const { return reference_ ? reference_->usage() : cache::CacheUsage{}; }
  FileFloor file_floor() const {
    FileFloor floor = floor_;
    floor.divergence /= static_cast<double>(tokens_);
    floor.bounded_share = std::max(0.0, floor.bounded_share / static_cast<double>(tokens_));
    return floor;
  }
  std::span<const Subject> subjects() const { return subjects_; }

 private:
  cache::KvCache make_cache(const CachePair& spec) {
    return engine_.make_cache(spec.k, spec.v, windows_.context(), 1, spec.plan.get());
  }

  void add(const CachePair& spec, std::size_t prefill_rows, std::size_t rows) {
    subjects_.push_back({spec, make_cache(spec), prefill_rows, rows});
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

  model::Recording* record() { return recording_ ? &*recording_ : nullptr; }

  /// Each step is replayed by those that need not run it whole.
  void prefill_reference(std::span<const Token> tokens) {
    reference_->truncate(0, 0);
    for (Subject& subject : subjects_) {
      if (subject.differs_from > 0) subject.cache.truncate(0, 0);
    }
    for (std::size_t at = 0; at < tokens.size(); at += model::Transformer::kMaxRows) {
      const auto step = tokens.subspan(at, std::min(model::Transformer::kMaxRows, tokens.size() - at));
      engine_.transformer().forward(*reference_, std::array{model::Input{0, step, 0}}, record());
      advance(step.size());
      for (Subject& subject : subjects_) {
        if (subject.differs_from == 0) continue;
        engine_.transformer().replay(subject.cache, *recording_, subject.differs_from);
        advance(step.size());
      }
    }
  }

  MatView<const float> logits(cache::KvCache& cache, std::span<const Token> rows, model::Recording* record = nullptr) {
    return engine_.transformer().forward(cache, std::array{model::Input{0, rows, rows.size()}}, record);
  }

  void check_finite(bool finite, const CachePair& spec) const {
    KVANT_CHECK(finite, ErrorCode::format, "{}: logits of chunk {} with cache {} are not finite", engine_.file().path(),
                window_, to_string(spec));
  }

  /// Keeps the logits and what they are normalized by: the next forward pass overwrites them.
  void run_reference(std::span<const Token> rows, std::span<const Token> targets) {
    const MatView<const float> out = logits(*reference_, rows, record());
    kept_.resize(out.rows * out.cols);
    sums_.resize(out.rows);
    const MatView<float> kept{kept_.data(), out.rows, out.cols};
    engine_.pool().run(out.rows, [&](std::size_t r, int) {
      std::copy_n(out.row(r).data(), out.cols, kept.row(r).data());
      sums_[r] = normalize(kept.row(r));
    });
    for (std::size_t r = 0; r < out.rows; ++r) {
      const double loss = -sums_[r].log_probability(kept.row(r), static_cast<std::size_t>(targets[r]));
      check_finite(std::isfinite(loss), reference_spec_);
      loss_ += loss;
    }
    if (saved_) saved_->add(kept, engine_.pool());
    tokens_ += out.rows;
    advance(out.rows);
  }

  /// The next rows of the file in place of logits.
  void read_reference(std::span<const Token> targets) {
    const std::size_t rows = targets.size(), vocabulary = file_->shape().vocabulary;
    kept_.resize(rows * vocabulary);
    coded_.resize(rows);
    const MatView<float> kept{kept_.data(), rows, vocabulary};
    for (std::size_t r = 0; r < rows; ++r) coded_[r] = file_->next(kept.row(r));
    std::vector<double> known(rows, 1);
    engine_.pool().run(rows, [&](std::size_t r, int) {
      if (std::isfinite(coded_[r].floor)) known[r] = probability_above(kept.row(r), coded_[r].floor);
    });
    for (std::size_t r = 0; r < rows; ++r) {
      const float log_p = kept.row(r)[static_cast<std::size_t>(targets[r])];
      const double step = static_cast<double>(coded_[r].step);
      loss_ -= static_cast<double>(log_p);
      floor_.step = std::max(floor_.step, step);
      floor_.divergence += step * step / 8;
      floor_.bounded_share += 1 - known[r];
      floor_.bounded += log_p <= coded_[r].floor ? 1 : 0;
    }
    tokens_ += rows;
  }

  /// Compares the row of the piece.
  TokenScore score(std::size_t row, std::span<const float> other, Token target) const {
    const std::span<const float> kept(kept_.data() + row * other.size(), other.size());
    const auto token = static_cast<std::size_t>(target);
    return file_ ? compare_coded_row(kept, coded_[row], other, token) : compare_rows(kept, sums_[row], other, token);
  }

  void run_subject(Subject& subject, std::span<const Token> rows, std::span<const Token> targets) {
    for (std::size_t at = 0; at < rows.size(); at += subject.rows) {
      const std::size_t count = std::min(subject.rows, rows.size() - at), scored = subject.scores.size();
      const MatView<const float> out =
          subject.differs_from > 0 ? engine_.transformer().replay(subject.cache, *recording_, subject.differs_from)
                                   : logits(subject.cache, rows.subspan(at, count));
      subject.scores.resize(scored + count);
      engine_.pool().run(
          count, [&](std::size_t r, int) { subject.scores[scored + r] = score(at + r, out.row(r), targets[at + r]); });
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
  CachePair reference_spec_;
  LogitsReader* file_;
  LogitsWriter* saved_;
  std::optional<cache::KvCache> reference_;  ///< where it is not a file
  std::vector<Subject> subjects_;
  std::optional<model::Recording> recording_;  ///< of the reference's last pass, where it is replayed
  std::vector<float> kept_;                    ///< logits of the reference, or its log-probabilities [rows, vocabulary]
  std::vector<Normalizer> sums_;               ///< of each row of logits
  std::vector<CodedRow> coded_;                ///< of each row of a file
  FileFloor floor_;                            ///< sums where figures are means
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

/// Refuses a file that is not of this model and text.
void check_matches(const LogitsReader& file, const engine::Engine& engine, std::span<const Token> text) {
  const LogitsShape& shape = file.shape();
  KVANT_CHECK(shape.vocabulary == engine.config().vocabulary, ErrorCode::invalid_argument,
              "{}: n_vocab {}, {} has {} tokens", file.path(), shape.vocabulary, engine.file().path(),
              engine.config().vocabulary);
  KVANT_CHECK(shape.tokens() <= text.size(), ErrorCode::invalid_argument,
              "{}: {} tokens (n_ctx {}, n_chunk {}), the text has {}", file.path(), shape.tokens(), shape.context,
              shape.chunks, text.size());
  const auto [theirs, ours] = std::mismatch(file.tokens().begin(), file.tokens().end(), text.begin());
  if (theirs == file.tokens().end()) return;
  fail(ErrorCode::invalid_argument, "{}: token {} is {}, in the text it is {}", file.path(),
       theirs - file.tokens().begin(), *theirs, *ours);
}

}  // namespace

CompareResult compare(engine::Engine& engine, std::span<const Token> text, const CompareOptions& options) {
  std::optional<LogitsReader> file;
  if (!options.logits.empty()) {
    KVANT_CHECK(!options.noise_floor && options.save_logits.empty(), ErrorCode::invalid_argument,
                "{}: a file has no noise floor and cannot be saved", options.logits);
    check_matches(file.emplace(options.logits), engine, text);
  }
  KVANT_ASSERT(options.differs_from.empty() ||
               (options.differs_from.size() == options.caches.size() && !options.decode && !file));
  const Windows windows = file ? Windows(engine, file->tokens(), file->shape().context, file->shape().chunks)
                               : Windows(engine, text, options.context, options.chunks);
  std::optional<LogitsWriter> saved;
  if (!options.save_logits.empty()) {
    const LogitsShape shape{windows.context(), engine.config().vocabulary, windows.count()};
    saved.emplace(options.save_logits, shape, text.first(shape.tokens()));
  }
  Comparison comparison(engine, windows, options, file ? &*file : nullptr, saved ? &*saved : nullptr);
  for (std::size_t i = 0; i < windows.count(); ++i) comparison.run(i);
  if (saved) saved->commit();

  CompareResult result;
  result.context = windows.context();
  result.chunks = windows.count();
  result.tokens = windows.count() * windows.scored();
  result.perplexity = comparison.perplexity();
  result.usage = comparison.reference_usage();
  for (const Subject& subject : comparison.subjects()) {
    result.caches.push_back(result_of(subject, windows, result.perplexity));
  }
  if (options.noise_floor) {
    result.noise_floor = std::move(result.caches.back());
    result.caches.pop_back();
  }
  if (file) result.file_floor = comparison.file_floor();
  return result;
}

}  // namespace kvant::eval
