#include "eval/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "eval/logits_file.h"

namespace kvant::eval {
namespace {

constexpr double kNormal95 = 1.959963984540054;  ///< of the standard normal, 2.5 % lie beyond on either side
constexpr std::size_t kManyWindows = 30, kRun = 64, kFewBlocks = 8;
constexpr std::size_t kResamples = 2000;
constexpr std::uint64_t kSeed = 20240601;
/// Of a log-probability of a file, beside its code: four roundings of numbers up to 32.
constexpr double kF32Error = 4 * 0x1p-20;

struct Range {
  std::size_t begin, end;
};

/// Blocks of the rows [first, last) of `windows` windows of `length` tokens, as ranges of tokens.
std::vector<Range> block_ranges(std::size_t windows, std::size_t length, std::size_t first, std::size_t last) {
  const std::size_t rows = last - first;
  const std::size_t run = std::clamp<std::size_t>(windows * rows / kFewBlocks, 1, kRun);
  const std::size_t runs = windows >= kManyWindows ? 1 : std::max<std::size_t>(1, (rows + run / 2) / run);
  std::vector<Range> ranges;
  for (std::size_t w = 0; w < windows; ++w) {
    const std::size_t start = w * length + first;
    for (std::size_t i = 0; i < runs; ++i) ranges.push_back({start + rows * i / runs, start + rows * (i + 1) / runs});
  }
  return ranges;
}

std::vector<Block> block_sums(std::span<const TokenScore> scores, std::span<const Range> ranges,
                              float TokenScore::*value) {
  std::vector<Block> blocks;
  for (const Range& range : ranges) {
    Block& block = blocks.emplace_back(Block{0, range.end - range.begin});
    for (std::size_t i = range.begin; i < range.end; ++i) block.sum += static_cast<double>(scores[i].*value);
  }
  return blocks;
}

double mean(std::span<const Block> blocks) {
  Block all;
  for (const Block& block : blocks) {
    all.sum += block.sum;
    all.count += block.count;
  }
  return all.sum / static_cast<double>(all.count);
}

/// What a divergence from a coded row is made of.
struct CodedSums {
  double p = 0, p_best = 0;  ///< of the tokens above the floor, and of the most probable one
  double weighted = 0;       ///< sum p ln(p / q) over them
  double q_rest = 0;         ///< of the other cache, for the tokens that the row only bounds
  std::size_t bounded = 0;   ///< how many these are

  double divergence(const CodedRow& row) const {
    const double known = weighted / p - std::log(p);
    if (bounded == 0) return known;
    // The code of the most probable token is exact; f32 rounds step and lowest, and their sum.
    const double error = static_cast<double>(row.step) / 2 * (p - p_best) + kF32Error * p;
    const double most = static_cast<double>(bounded) * std::exp(static_cast<double>(row.floor));
    const double low = std::clamp(1 - p - error, 0.0, most), high = std::clamp(1 - p + error, 0.0, most);
    const double q = std::max(q_rest, std::numeric_limits<double>::min());
    const double rest = std::clamp(1 / (1 + std::exp(-known) / q), low, high);
    return (1 - rest) * (std::log1p(-rest) + known) + (rest > 0 ? rest * std::log(rest / q) : 0);
  }
};

}  // namespace

Normalizer normalize(std::span<const float> logits) {
  const auto top = std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - static_cast<double>(*top));
  return {std::log(sum) + static_cast<double>(*top), static_cast<std::size_t>(top - logits.begin())};
}

TokenScore compare_rows(std::span<const float> reference, const Normalizer& reference_sum, std::span<const float> other,
                        std::size_t target) {
  const Normalizer other_sum = normalize(other);
  const double shift = reference_sum.log_sum - other_sum.log_sum;
  double divergence = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double p = std::exp(reference_sum.log_probability(reference, i));
    divergence += p * (static_cast<double>(reference[i]) - static_cast<double>(other[i]) - shift);
  }
  const double before = reference_sum.log_probability(reference, target);
  const double after = other_sum.log_probability(other, target);
  // Not max(0, x): that would turn NaN into 0.
  return {static_cast<float>(divergence < 0 ? 0 : divergence), static_cast<float>(before - after),
          static_cast<float>(std::exp(after) - std::exp(before)), reference_sum.best == other_sum.best};
}

TokenScore compare_coded_row(std::span<const float> log_probability, const CodedRow& row, std::span<const float> other,
                             std::size_t target) {
  const Normalizer other_sum = normalize(other);
  CodedSums sums;
  std::size_t best = 0;
  for (std::size_t i = 0; i < other.size(); ++i) {
    const double log_q = other_sum.log_probability(other, i);
    if (log_probability[i] <= row.floor) {
      sums.q_rest += std::exp(log_q);
      ++sums.bounded;
      continue;
    }
    const double log_p = static_cast<double>(log_probability[i]), p = std::exp(log_p);
    sums.p += p;
    sums.weighted += p * (log_p - log_q);
    if (log_probability[i] > log_probability[best]) best = i;
  }
  sums.p_best = std::exp(static_cast<double>(log_probability[best]));
  const double divergence = sums.divergence(row);
  const double before = static_cast<double>(log_probability[target]), after = other_sum.log_probability(other, target);
  return {static_cast<float>(divergence < 0 ? 0 : divergence), static_cast<float>(before - after),
          static_cast<float>(std::exp(after) - std::exp(before)), best == other_sum.best};
}

double standard_error(std::span<const Block> blocks) {
  if (blocks.size() < 2) return 0;
  const double centre = mean(blocks);
  double squares = 0, count = 0;
  for (const Block& block : blocks) {
    const double n = static_cast<double>(block.count), deviation = block.sum - n * centre;
    squares += deviation * deviation;
    count += n;
  }
  const double b = static_cast<double>(blocks.size());
  return std::sqrt(squares * b / (b - 1)) / count;
}

Interval bootstrap_mean(std::span<const Block> blocks, std::size_t resamples, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> means(resamples);
  const double centre = mean(blocks);
  for (float& resampled : means) {
    Block all;
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const Block& block = blocks[random.below(blocks.size())];
      all.sum += block.sum;
      all.count += block.count;
    }
    resampled = static_cast<float>(all.sum / static_cast<double>(all.count) - centre);
  }
  std::sort(means.begin(), means.end());
  return {centre + quantile(means, 0.025), centre + quantile(means, 0.975)};
}

Interval wilson(std::size_t successes, std::size_t trials) {
  if (trials == 0) return {0, 1};
  const double n = static_cast<double>(trials), share = static_cast<double>(successes) / n;
  const double z2 = kNormal95 * kNormal95;
  const double centre = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double half = kNormal95 / (1 + z2 / n) * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n));
  // Of none and of all the bounds are 0 and 1 exactly, which the sums are not.
  return {successes == 0 ? 0.0 : centre - half, successes == trials ? 1.0 : centre + half};
}

double quantile(std::span<const float> sorted, double q) {
  KVANT_ASSERT(!sorted.empty());
  const double position = q * static_cast<double>(sorted.size() - 1);
  const auto below = std::min(static_cast<std::size_t>(position), sorted.size() - 1);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double low = static_cast<double>(sorted[below]), high = static_cast<double>(sorted[above]);
  return low + (position - static_cast<double>(below)) * (high - low);
}

Summary summarize(std::span<const TokenScore> scores, std::size_t windows, std::size_t first, std::size_t last) {
  Summary result;
  result.tokens = windows * (last - first);
  if (result.tokens == 0) return result;
  const std::size_t length = scores.size() / windows;
  std::vector<float> divergences;
  divergences.reserve(result.tokens);
  std::size_t same = 0;
  double squares = 0;
  for (std::size_t w = 0; w < windows; ++w) {
    for (const TokenScore& score : scores.subspan(w * length + first, last - first)) {
      divergences.push_back(score.divergence);
      same += score.same_best ? 1 : 0;
      squares += static_cast<double>(score.probability_change) * static_cast<double>(score.probability_change);
    }
  }
  const double n = static_cast<double>(result.tokens);
  result.top1 = static_cast<double>(same) / n;
  result.top1_range = wilson(same, result.tokens);
  result.rms_probability = std::sqrt(squares / n);

  const auto ranges = block_ranges(windows, length, first, last);
  const auto divergence = block_sums(scores, ranges, &TokenScore::divergence);
  result.kld_mean = mean(divergence);
  result.kld_se = standard_error(divergence);
  std::sort(divergences.begin(), divergences.end());
  result.kld_median = quantile(divergences, 0.5);
  result.kld_p90 = quantile(divergences, 0.9);
  result.kld_p95 = quantile(divergences, 0.95);
  result.kld_p99 = quantile(divergences, 0.99);
  result.kld_p999 = quantile(divergences, 0.999);
  result.kld_max = static_cast<double>(divergences.back());

  const auto loss = block_sums(scores, ranges, &TokenScore::loss_change);
  const Interval range = bootstrap_mean(loss, kResamples, kSeed);
  result.log_ppl_ratio = mean(loss);
  result.ppl_ratio = std::exp(result.log_ppl_ratio);
  result.ppl_ratio_range = {std::exp(range.low), std::exp(range.high)};
  return result;
}

}  // namespace kvant::eval
