#include <cstring>

#include "kernels/matmul/activations.h"
#include "kernels/simd/target.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
namespace {

/// max |x| over 32 values, by the bits: a NaN is larger than everything.
float max_magnitude(const float* x) noexcept {
  uint32x4_t most = vdupq_n_u32(0);
  for (int i = 0; i < 8; ++i) {
    most = vmaxq_u32(most, vbicq_u32(vreinterpretq_u32_f32(vld1q_f32(x + 4 * i)), vdupq_n_u32(0x80000000)));
  }
  return vgetq_lane_f32(vreinterpretq_f32_u32(vdupq_n_u32(vmaxvq_u32(most))), 0);
}

/// Codes of 16 values, rounded to nearest even.
int8x16_t codes(const float* x, float inverse) noexcept {
  int16x4_t q[4];
  for (int i = 0; i < 4; ++i) q[i] = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4 * i), inverse)));
  return vcombine_s8(vqmovn_s16(vcombine_s16(q[0], q[1])), vqmovn_s16(vcombine_s16(q[2], q[3])));
}

void quantize_block(const float* x, ActivationBlock& out) noexcept {
  for (std::size_t g = 0; g < 8; ++g) {
    const std::size_t half = g / 4, at = g % 4;
    const float* values = x + 32 * g;
    const float max = max_magnitude(values);
    const float scale = max / 127.0f, inverse = max > 0 ? 127.0f / max : 0.0f;
    const int8x16_t low = codes(values, inverse), high = codes(values + 16, inverse);
    vst1q_s8(out.q[half] + 16 * at, low);
    vst1q_s8(out.q[half] + 64 + 16 * at, high);
    const int32x4_t low_lanes = vpaddlq_s16(vpaddlq_s8(low)), high_lanes = vpaddlq_s16(vpaddlq_s8(high));
    vst1q_s32(out.negative_sum[half] + 4 * at, vnegq_s32(vaddq_s32(low_lanes, high_lanes)));
    vst1q_f32(out.lane_scale[half] + 4 * at, vdupq_n_f32(scale));
    const int low_sum = vaddvq_s32(low_lanes), high_sum = vaddvq_s32(high_lanes);
    out.scale[g] = scale;
    out.negative_group_sum[g] = -(low_sum + high_sum);
    out.minus_sum[g] = scale * static_cast<float>(out.negative_group_sum[g]);
    out.half_sum[2 * g] = scale * static_cast<float>(low_sum);
    out.half_sum[2 * g + 1] = scale * static_cast<float>(high_sum);
  }
}

}  // namespace

void quantize_activations(const float* x, std::size_t cols, ActivationBlock* blocks, std::size_t stride) noexcept {
  for (; cols >= ActivationBlock::kValues; cols -= ActivationBlock::kValues, x += ActivationBlock::kValues) {
    quantize_block(x, *blocks);
    blocks += stride;
  }
  if (cols != 0) {
    float last[ActivationBlock::kValues] = {};
    std::memcpy(last, x, cols * sizeof(float));
    quantize_block(last, *blocks);
  }
}

}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
