#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvant::kernels {

/// Rotary position embedding of a model (Su et al., RoFormer, 2021, section 3.2), with the ways to stretch it.
/// Channels j and j + dims/2 of a head form pair j (NEOX order); models with interleaved pairs are reordered when their
/// q and k are computed, so everything behind that point sees NEOX order.
struct RopeConfig {
  enum class Scaling { none, linear, yarn };
  std::size_t dims = 0;  ///< rotated channels of a head, even; the rest pass unchanged
  double base = 10000;
  Scaling scaling = Scaling::none;
  double factor = 1;                 ///< > 1 stretches: linear p / factor; YaRN per pair
  std::size_t original_context = 0;  ///< of the training, for YaRN
  double yarn_beta_fast = 32;
  double yarn_beta_slow = 1;
  double attention_factor = 1;           ///< extra factor on the magnitude, for YaRN
  std::vector<float> frequency_factors;  ///< Llama 3: theta_j is divided by these (dims / 2 values), or empty
};

/// Effective angle per position of each pair (radians) and the common magnitude of cos and sin, from the config.
/// YaRN: Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", 2023, section 3.
struct RopeFrequencies {
  std::vector<double> theta;  ///< dims / 2
  double magnitude = 1;
};
RopeFrequencies rope_frequencies(const RopeConfig& config);

/// Writes cos and sin of position * theta_j, times magnitude, for each position: out [positions][pairs][2] f32.
/// The angle is formed and reduced in double: exact to f32 rounding up to position 2^31.
void rope_angles(const RopeFrequencies& frequencies, std::span<const std::size_t> positions, float* out);

/// Rotates one head in place: x[j], x[j + pairs] for j < pairs by angles [pairs][2]. Two f32 products and one sum each,
/// no FMA: the same bits on every instruction set (cached bytes depend on it).
void rope_apply(const float* angles, std::size_t pairs, float* x) noexcept;

}  // namespace kvant::kernels
