#include "kernels/rope/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace kvant::kernels {
namespace {

/// The pair index (a real number) whose angle makes `turns` full turns over the original context: YaRN, section 3.2.
double pair_of_turns(const RopeConfig& c, double turns) {
  const double wavelength = static_cast<double>(c.original_context) / turns;
  return static_cast<double>(c.dims) * std::log(wavelength / (2 * std::numbers::pi)) / (2 * std::log(c.base));
}

void check(const RopeConfig& c) {
  KVANT_CHECK(c.dims % 2 == 0, ErrorCode::format, "RoPE dimensions: {}, expected an even number", c.dims);
  KVANT_CHECK(c.base > 1 && std::isfinite(c.base), ErrorCode::format, "RoPE base: {}, expected more than 1", c.base);
  KVANT_CHECK(c.factor > 0 && std::isfinite(c.factor), ErrorCode::format, "RoPE factor: {}, expected more than 0",
              c.factor);
  KVANT_CHECK(c.frequency_factors.empty() || c.frequency_factors.size() == c.dims / 2, ErrorCode::format,
              "RoPE frequency factors: {}, expected {}", c.frequency_factors.size(), c.dims / 2);
  for (float f : c.frequency_factors) {
    KVANT_CHECK(f > 0 && std::isfinite(f), ErrorCode::format, "RoPE frequency factor: {}, expected more than 0", f);
  }
  if (c.scaling == RopeConfig::Scaling::yarn) {
    KVANT_CHECK(c.original_context > 0, ErrorCode::format, "YaRN: original context 0, expected more than 0");
    KVANT_CHECK(c.yarn_beta_slow > 0 && c.yarn_beta_fast > 0, ErrorCode::format,
                "YaRN: beta_fast {} and beta_slow {}, expected more than 0", c.yarn_beta_fast, c.yarn_beta_slow);
  }
}

}  // namespace

RopeFrequencies rope_frequencies(const RopeConfig& config) {
  check(config);
  const std::size_t pairs = config.dims / 2;
  const bool yarn = config.scaling == RopeConfig::Scaling::yarn;
  double low = 0;
  double high = 0;
  if (yarn) {
    low = std::max(0.0, std::floor(pair_of_turns(config, config.yarn_beta_fast)));
    high = std::min(static_cast<double>(config.dims) - 1, std::ceil(pair_of_turns(config, config.yarn_beta_slow)));
  }
  RopeFrequencies result;
  result.theta.resize(pairs);
  for (std::size_t j = 0; j < pairs; ++j) {
    const double index = static_cast<double>(j);
    double theta = std::pow(config.base, -2 * index / static_cast<double>(config.dims));
    if (!config.frequency_factors.empty()) theta /= static_cast<double>(config.frequency_factors[j]);
    const double stretched = theta / config.factor;
    if (config.scaling == RopeConfig::Scaling::linear) theta = stretched;
    if (yarn) {  // fast pairs keep their angle, slow ones are stretched, those between are mixed
      const double slowness = std::clamp((index - low) / std::max(0.001, high - low), 0.0, 1.0);
      theta = stretched * slowness + theta * (1 - slowness);
    }
    result.theta[j] = theta;
  }
  if (yarn) result.magnitude = config.attention_factor * (1 + 0.1 * std::log(config.factor));
  return result;
}

void rope_angles(const RopeFrequencies& frequencies, std::span<const std::size_t> positions, float* out) {
  for (std::size_t position : positions) {
    const double p = static_cast<double>(position);
    for (double theta : frequencies.theta) {
      // The product is kept exactly, as angle + rest: at large positions the rest is above the rounding of f32.
      const double angle = p * theta;
      const double rest = std::fma(p, theta, -angle);
      const double cosine = std::cos(angle);
      const double sine = std::sin(angle);
      *out++ = static_cast<float>(frequencies.magnitude * (cosine - rest * sine));
      *out++ = static_cast<float>(frequencies.magnitude * (sine + rest * cosine));
    }
  }
}

void rope_apply(const float* angles, std::size_t pairs, float* x) noexcept {
  for (std::size_t j = 0; j < pairs; ++j) {
    const float cosine = angles[2 * j];
    const float sine = angles[2 * j + 1];
    const float a = x[j];
    const float b = x[j + pairs];
    x[j] = a * cosine - b * sine;
    x[j + pairs] = a * sine + b * cosine;
  }
}

}  // namespace kvant::kernels
