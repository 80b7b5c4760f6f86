#pragma once
#include <cstddef>

/// What the tiers of the transform share: the scalar tier, and the factor that makes the transform orthonormal.
namespace kvant::kernels {
/// The f32 nearest 1 / sqrt(n).
float scale_of(std::size_t n) noexcept;
namespace scalar {
void fwht(float* x, std::size_t n) noexcept;
}
}  // namespace kvant::kernels
