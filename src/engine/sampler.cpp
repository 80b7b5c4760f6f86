#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/error.h"

namespace kvant::engine {
namespace {

using Candidate = std::pair<float, std::int32_t>;  // logit, token

/// Likelier first, ties to the lower id.
bool likelier(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

/// Divides positive and multiplies negative logits of the last `last` tokens, each once.
void penalize(std::vector<Candidate>& candidates, std::span<const std::int32_t> recent, double penalty,
              std::size_t last) {
  std::vector<std::int32_t> tokens(recent.end() - static_cast<std::ptrdiff_t>(std::min(last, recent.size())),
                                   recent.end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  const auto factor = static_cast<float>(penalty);
  for (auto& [logit, token] : candidates) {
    if (std::binary_search(tokens.begin(), tokens.end(), token)) logit = logit > 0 ? logit / factor : logit * factor;
  }
}

/// Keeps the shortest run of the likeliest candidates whose probability reaches p. Sorts no more than it needs.
void keep_top_p(std::vector<Candidate>& candidates, double p) {
  float top = -std::numeric_limits<float>::infinity();
  for (const auto& candidate : candidates) top = std::max(top, candidate.first);
  const auto weight = [top](const Candidate& c) { return std::exp(static_cast<double>(c.first) - top); };
  double total = 0;
  for (const auto& candidate : candidates) total += weight(candidate);

  double sum = 0;
  std::size_t kept = 0;
  for (std::size_t sorted = 0; kept < candidates.size() && sum < p * total; ++kept) {
    if (kept == sorted) {
      sorted = std::min(candidates.size(), std::max<std::size_t>(256, 4 * sorted));
      std::partial_sort(candidates.begin() + static_cast<std::ptrdiff_t>(kept),
                        candidates.begin() + static_cast<std::ptrdiff_t>(sorted), candidates.end(), likelier);
    }
    sum += weight(candidates[kept]);
  }
  candidates.resize(std::max<std::size_t>(kept, 1));
}

/// Draws a candidate with probability proportional to exp(logit / temperature).
std::int32_t draw(std::span<const Candidate> candidates, float top, double temperature, Random& random) {
  const auto weight = [&](const Candidate& c) { return std::exp((static_cast<double>(c.first) - top) / temperature); };
  double total = 0;
  for (const auto& candidate : candidates) total += weight(candidate);
  double left = random.uniform() * total;
  for (const auto& candidate : candidates) {
    left -= weight(candidate);
    if (left < 0) return candidate.second;
  }
  return candidates.back().second;  // rounding left a remainder
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {
  const auto check = [](bool good, std::string_view option, auto value, std::string_view range) {
    KVANT_CHECK(good, ErrorCode::invalid_argument, "{} is {}, expected {}", option, value, range);
  };
  const auto& o = options_;
  check(std::isfinite(o.temperature) && o.temperature >= 0, "temperature", o.temperature, "0 or more");
  check(o.top_k >= 0, "top-k", o.top_k, "0 or more");
  check(o.top_p > 0 && o.top_p <= 1, "top-p", o.top_p, "a number above 0 and at most 1");
  check(o.min_p >= 0 && o.min_p <= 1, "min-p", o.min_p, "0 to 1");
  check(std::isfinite(o.repeat_penalty) && o.repeat_penalty > 0, "repeat penalty", o.repeat_penalty,
        "a number above 0");
  check(o.repeat_last >= 0, "repeat-last", o.repeat_last, "0 or more");
}

std::int32_t Sampler::sample(std::span<const float> logits, std::span<const std::int32_t> recent) {
  candidates_.clear();
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) candidates_.emplace_back(logits[i], static_cast<std::int32_t>(i));
  }
  KVANT_CHECK(!candidates_.empty(), ErrorCode::format, "none of the {} logits is a finite number", logits.size());

  if (options_.repeat_penalty != 1) {
    penalize(candidates_, recent, options_.repeat_penalty, static_cast<std::size_t>(options_.repeat_last));
  }
  const Candidate best = *std::min_element(candidates_.begin(), candidates_.end(), likelier);
  if (options_.temperature == 0) return best.second;

  const auto k = static_cast<std::size_t>(options_.top_k);
  if (k > 0 && k < candidates_.size()) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(k), candidates_.end(),
                      likelier);
    candidates_.resize(k);
  }
  if (options_.top_p < 1) keep_top_p(candidates_, options_.top_p);
  if (options_.min_p > 0) {
    const double least = static_cast<double>(best.first) + std::log(options_.min_p);
    std::erase_if(candidates_, [least](const Candidate& c) { return c.first < least; });
  }
  return draw(candidates_, best.first, options_.temperature, random_);
}

}  // namespace kvant::engine
