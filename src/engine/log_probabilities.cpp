#include "engine/log_probabilities.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kvant::engine {

LogProbabilities log_probabilities(std::span<const float> logits, std::int32_t chosen, std::size_t top) {
  const auto highest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - highest);
  const double log_sum = highest + std::log(sum);
  const auto entry = [&](std::int32_t token) {
    return LogProbabilities::Entry{
        token, static_cast<float>(static_cast<double>(logits[static_cast<std::size_t>(token)]) - log_sum)};
  };

  LogProbabilities result{entry(chosen), {}};
  std::vector<std::int32_t> tokens(logits.size());
  std::iota(tokens.begin(), tokens.end(), 0);
  const auto end = tokens.begin() + static_cast<std::ptrdiff_t>(std::min(top, tokens.size()));
  std::partial_sort(tokens.begin(), end, tokens.end(), [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  });
  std::transform(tokens.begin(), end, std::back_inserter(result.top), entry);
  return result;
}

}  // namespace kvant::engine
