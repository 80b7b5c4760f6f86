#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "codec/plan.h"

namespace kvant::calib {

/// Second moments, about zero, of the channels of a head's keys after RoPE, [head_dim]: of each RoPE pair the squared
/// means of its channels, and half of what is left of the pair's energy for each. That is exact for pairs that turn
/// through all angles; in slow ones RoPE mixes the channels less.
std::vector<double> rotated_moments(const codec::Plan& plan, std::size_t layer, std::size_t head);

/// Share of a layer's energy, in percent, that lies in the strongest quarter of each head's channels; 25 is even.
struct Concentration {
  double raw = 0;      ///< second moments of the keys after RoPE
  double centred = 0;  ///< variances of the keys before RoPE: without their mean
  /// Variances of three streams with equal weight: keys without bias, with it, and after RoPE. That is what an earlier
  /// tool captured, so its published percentages can be compared with this one: it is high where the bias is.
  double pooled = 0;
};

/// Of one layer. bias [kv_heads * head_dim] of the K projection, or empty.
Concentration concentration(const codec::Plan& plan, std::size_t layer, std::span<const float> bias);

}  // namespace kvant::calib
