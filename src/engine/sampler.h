#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"

namespace kvant::engine {

/// How the next token is chosen. Steps run in this order: repeat penalty, top-k, top-p, min-p, temperature, draw.
struct SamplerOptions {
  double temperature = 0;  ///< 0: greedy (ties to the lower id)
  int top_k = 0;           ///< keep the k likeliest; 0: all
  double top_p = 1;        ///< keep the smallest set whose probability reaches p (Holtzman et al., 2020)
  double min_p = 0;        ///< drop tokens less likely than min_p times the likeliest (Nguyen et al., 2024)
  double repeat_penalty =
      1;                 ///< divides positive and multiplies negative logits of recent tokens (Keskar et al., 2019)
  int repeat_last = 64;  ///< how many recent tokens the penalty looks at
  std::uint64_t seed = 0;
};

/// Chooses tokens from logits; the same options and logits give the same tokens on every machine with equal logits.
class Sampler {
 public:
  /// Throws invalid_argument naming the option and its value when one is out of range.
  explicit Sampler(const SamplerOptions& options);
  /// logits [vocabulary]; recent: the tokens so far, newest last. Throws format when no logit is finite.
  std::int32_t sample(std::span<const float> logits, std::span<const std::int32_t> recent);

 private:
  SamplerOptions options_;
  Random random_;
  std::vector<std::pair<float, std::int32_t>> candidates_;
};

}  // namespace kvant::engine
