#pragma once
#include <cstddef>
#include <span>

#include "base/cpu.h"
#include "kernels/registry.h"

namespace kvant::kernels {

/// The orthonormal Walsh-Hadamard transform in place, its own inverse:
/// x'[i] = 1 / sqrt(n) * sum_j (-1)^popcount(i & j) x[j]   (n = 2, 4, ... 256)
/// Butterflies (a, b) -> (a + b, a - b) at distances 1, 2, 4 ..., then one product with the f32 nearest 1 / sqrt(n):
/// the same bits on every tier (cached bytes depend on it).
using FwhtFunction = void (*)(float* x, std::size_t n) noexcept;

/// The transforms of all tiers, the most capable first.
std::span<const Implementation<FwhtFunction>> fwht_implementations() noexcept;
/// The transform for an instruction set.
FwhtFunction fwht(Isa isa) noexcept;

/// Rotates a head of `dims` values (even) in place: the transform of each block of 64, the rest cut into descending
/// powers of two (80 = 64 + 16). Orthonormal and its own inverse.
void rotate_head(FwhtFunction transform, float* x, std::size_t dims) noexcept;

}  // namespace kvant::kernels
