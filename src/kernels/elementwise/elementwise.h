#pragma once
#include <cstddef>
#include <span>

#include "base/cpu.h"
#include "kernels/registry.h"

namespace kvant::kernels {

/// Vector operations of the transformer between the matrix products, resolved once for an instruction set. All are
/// noexcept, allocate nothing and take unaligned f32 pointers; n is any count. Sums run in a fixed order per tier.
struct Elementwise {
  /// out[i] = x[i] / sqrt(mean(x^2) + epsilon) * weight[i]; out may be x.
  /// Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, eq. 4.
  void (*rms_norm)(const float* x, const float* weight, float epsilon, std::size_t n, float* out) noexcept;
  /// x[i] += y[i]
  void (*add)(float* x, const float* y, std::size_t n) noexcept;
  /// out[i] = gate[i] / (1 + exp(-gate[i])) * up[i]; out may be gate. Relative error below 1e-6.
  /// Source: Shazeer, "GLU Variants Improve Transformer", 2020, eq. 5 (SwiGLU).
  void (*silu_mul)(const float* gate, const float* up, std::size_t n, float* out) noexcept;
};

/// The tables of all tiers, the most capable first.
std::span<const Implementation<const Elementwise*>> elementwise_implementations() noexcept;
/// The table for an instruction set.
const Elementwise& elementwise(Isa isa) noexcept;

}  // namespace kvant::kernels
