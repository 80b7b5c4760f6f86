#include "kernels/matmul/activations.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "kernels/simd/target.h"

namespace kvant::kernels {
#ifdef KVANT_X86
namespace avx512 {
void quantize_activations(const float* x, std::size_t cols, ActivationBlock* blocks, std::size_t stride) noexcept;
}
namespace avx2 {
void quantize_activations(const float* x, std::size_t cols, ActivationBlock* blocks, std::size_t stride) noexcept;
}
#endif
#ifdef KVANT_ARM64
namespace neon {
void quantize_activations(const float* x, std::size_t cols, ActivationBlock* blocks, std::size_t stride) noexcept;
}
#endif
namespace scalar {
namespace {

/// Largest magnitude, by its bits: a NaN is larger than everything.
float max_magnitude(const float* x) noexcept {
  std::uint32_t bits = 0;
  for (std::size_t i = 0; i < ActivationBlock::kGroup; ++i) {
    bits = std::max(bits, std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu);
  }
  return std::bit_cast<float>(bits);
}

std::int8_t code(float x, float inverse) noexcept {
  const float scaled = x * inverse;
  return std::abs(scaled) <= 127.5f ? static_cast<std::int8_t>(std::nearbyint(scaled)) : std::int8_t{-128};
}

}  // namespace

void quantize_activations(const float* x, std::size_t cols, ActivationBlock* blocks, std::size_t stride) noexcept {
  for (std::size_t at = 0; at < cols; at += ActivationBlock::kValues, blocks += stride) {
    float values[ActivationBlock::kValues] = {};
    std::memcpy(values, x + at, std::min(cols - at, ActivationBlock::kValues) * sizeof(float));
    *blocks = {};
    int sums[16] = {};
    for (std::size_t g = 0; g < 8; ++g) {
      const float max = max_magnitude(values + 32 * g);
      blocks->scale[g] = max / 127.0f;
      const float inverse = max > 0 ? 127.0f / max : 0.0f;
      for (std::size_t i = 32 * g; i < 32 * g + 32; ++i) {
        const std::int8_t q = code(values[i], inverse);
        const std::size_t position = code_position(i);
        blocks->q[code_half(i)][position] = q;
        blocks->negative_sum[code_half(i)][position % 64 / 4] -= q;
        sums[i / 16] += q;
      }
      blocks->negative_group_sum[g] = -(sums[2 * g] + sums[2 * g + 1]);
      blocks->minus_sum[g] = blocks->scale[g] * static_cast<float>(blocks->negative_group_sum[g]);
      for (std::size_t i = 0; i < 4; ++i) blocks->lane_scale[g / 4][g % 4 * 4 + i] = blocks->scale[g];
    }
    for (std::size_t i = 0; i < 16; ++i) blocks->half_sum[i] = blocks->scale[i / 2] * static_cast<float>(sums[i]);
  }
}

}  // namespace scalar

std::span<const Implementation<QuantizeActivations>> quantize_activations_kernels() noexcept {
  static constexpr Implementation<QuantizeActivations> kList[] = {
#ifdef KVANT_X86
      {"quantize_activations/avx512", Isa::avx512, avx512::quantize_activations},
      {"quantize_activations/avx2", Isa::avx2, avx2::quantize_activations},
#endif
#ifdef KVANT_ARM64
      {"quantize_activations/neon", Isa::neon, neon::quantize_activations},
#endif
      {"quantize_activations/scalar", Isa::scalar, scalar::quantize_activations},
  };
  return kList;
}

}  // namespace kvant::kernels
