#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvant::eval {

struct CodedRow;

/// What the softmax of a row of logits divides by, as a logarithm, and the most probable token (the first of equals).
struct Normalizer {
  double log_sum = 0;
  std::size_t best = 0;
  /// log softmax(logits)[token]
  double log_probability(std::span<const float> logits, std::size_t token) const {
    return static_cast<double>(logits[token]) - log_sum;
  }
};

/// Summed in double. log_sum is not finite when the logits are not.
Normalizer normalize(std::span<const float> logits);

/// One scored token under the reference and under another cache.
struct TokenScore {
  float divergence = 0;          ///< KLD(reference || other) over the vocabulary, nats
  float loss_change = 0;         ///< -log p(true token), other - reference
  float probability_change = 0;  ///< p(true token), other - reference
  bool same_best = false;        ///< both have the same most probable token
};

/// Compares two rows of logits, in double: sum_i p_i (log p_i - log q_i), p of the reference. Divergences that rounding
/// makes negative are 0; equal rows give exactly 0.
TokenScore compare_rows(std::span<const float> reference, const Normalizer& reference_sum, std::span<const float> other,
                        std::size_t target);

/// The same where the reference is a row of a file, of log-probabilities with limited resolution and range
/// (eval/logits_file.h). Tokens at or below the row's floor count as one, since the file only bounds them. Their
/// probability P is what the others leave of 1, which is known within half a step times theirs; of these P the one is
/// taken that makes the divergence least:
///     (1 - P) (ln(1 - P) + sum_i p_i ln(p_i / q_i)) + P ln(P / Q),  p normalized over the tokens above the floor,
/// Q what `other` gives those below. Rounding thus counts in second order: on equal rows by Var_p(e) / 2, |e_i| at most
/// half a step. Changes of the true token are taken as the file has them.
TokenScore compare_coded_row(std::span<const float> log_probability, const CodedRow& row, std::span<const float> other,
                             std::size_t target);

/// Tokens that are drawn together, since what neighbours lose is correlated.
struct Block {
  double sum = 0;
  std::size_t count = 0;
};

struct Interval {
  double low = 0, high = 0;
};

/// Standard error of the mean of all values, from how the blocks' sums scatter: sqrt(B/(B-1) sum_b (s_b - n_b m)^2) /
/// N. 0 for fewer than two blocks.
double standard_error(std::span<const Block> blocks);
/// 95 % percentile interval of the mean of all values over `resamples` draws of as many blocks with replacement.
Interval bootstrap_mean(std::span<const Block> blocks, std::size_t resamples, std::uint64_t seed);
/// 95 % score interval of Wilson for a share of successes in independent trials; [0, 1] without trials.
Interval wilson(std::size_t successes, std::size_t trials);
/// The q-quantile of ascending values, linear between neighbours (position q (n - 1)).
double quantile(std::span<const float> sorted, double q);

/// How a cache differs from the reference over a set of tokens.
struct Summary {
  std::size_t tokens = 0;
  double kld_mean = 0, kld_se = 0;
  double kld_median = 0, kld_p90 = 0, kld_p95 = 0, kld_p99 = 0, kld_p999 = 0, kld_max = 0;
  double top1 = 0;                 ///< share of tokens with the same most probable token
  Interval top1_range;             ///< wilson()
  double rms_probability = 0;      ///< root mean square of TokenScore::probability_change
  double log_ppl_ratio = 0;        ///< mean loss_change
  double ppl_ratio = 1;            ///< its exponential: perplexity over the reference's
  Interval ppl_ratio_range{1, 1};  ///< bootstrap_mean()
};

/// Summary of the rows [first, last) of each window; `scores` holds `windows` windows of equal length one after the
/// other. Blocks are windows where there are at least 30, else runs of about 64 consecutive tokens of a window (fewer
/// where that would leave less than 8 blocks). The bootstrap draws 2,000 times with a fixed seed.
Summary summarize(std::span<const TokenScore> scores, std::size_t windows, std::size_t first, std::size_t last);

}  // namespace kvant::eval
