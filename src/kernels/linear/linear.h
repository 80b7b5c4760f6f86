#pragma once
#include <cstddef>
#include <span>

#include "base/cpu.h"
#include "base/half.h"
#include "kernels/registry.h"

namespace kvant::kernels {

/// y[r][lane] = sum over s of x[r][s] * m[s][lane], from 0 on in rising order of s; each product and each sum is
/// rounded to f32, never fused: the same bits on every tier and whatever other rows stand beside a row (cached bytes
/// depend on it).
struct LinearArgs {
  const float* x;        ///< [rows][x_stride]
  std::size_t x_stride;  ///< >= inputs
  const Bf16* m;         ///< [inputs][lanes]
  std::size_t inputs, lanes, rows;
  float* y;              ///< [rows][y_stride], overwritten; apart from x
  std::size_t y_stride;  ///< >= lanes
};
using LinearFunction = void (*)(const LinearArgs&) noexcept;

/// The kernels of all tiers, the most capable first.
std::span<const Implementation<LinearFunction>> linear_implementations() noexcept;
/// The kernel for an instruction set.
LinearFunction linear(Isa isa) noexcept;

}  // namespace kvant::kernels
