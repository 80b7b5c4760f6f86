#include "kernels/matmul/formats_neon.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
namespace {

/// scale * code of 16 codes.
float32x4x4_t scaled(int8x16_t codes, float scale) noexcept {
  const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_high_s8(codes);
  const int32x4_t q[4] = {vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)),
                          vmovl_high_s16(high)};
  float32x4x4_t values;
  for (int i = 0; i < 4; ++i) values.val[i] = vmulq_n_f32(vcvtq_f32_s32(q[i]), scale);
  return values;
}

void store(int8x16_t codes, float scale, float* out) noexcept { vst1q_f32_x4(out, scaled(codes, scale)); }
void store_less(int8x16_t codes, float scale, float min, float* out) noexcept {
  float32x4x4_t values = scaled(codes, scale);
  for (float32x4_t& v : values.val) v = vsubq_f32(v, vdupq_n_f32(min));
  vst1q_f32_x4(out, values);
}

template <class Format>
void decode_four_blocks(const std::byte* data, float* out) noexcept {
  const Format w = Format::load(data);
  float d[4], m[4];
  vst1q_f32(d, w.d);
  if constexpr (Format::kHasMin) vst1q_f32(m, w.m);
  for (int g = 0; g < 4; ++g, out += 32) {
    if constexpr (Format::kHasMin) {
      store_less(w.codes.low[g], d[g], -m[g], out);
      store_less(w.codes.high[g], d[g], -m[g], out + 16);
    } else {
      store(w.codes.low[g], d[g], out);
      store(w.codes.high[g], d[g], out + 16);
    }
  }
}

template <class Format>
void decode_blocks(const std::byte* data, std::size_t count, float* out) noexcept {
  constexpr std::size_t kBytes = 4 * sizeof(typename Format::Block);
  for (; count >= 128; count -= 128, data += kBytes, out += 128) decode_four_blocks<Format>(data, out);
  if (count != 0) {
    std::byte last[kBytes] = {};
    float decoded[128];
    std::memcpy(last, data, count * kBytes / 128);
    decode_four_blocks<Format>(last, decoded);
    std::memcpy(out, decoded, count * sizeof(float));
  }
}

template <class Format>
void decode_super(const std::byte* data, std::size_t count, float* out) noexcept {
  for (; count != 0; count -= 256, data += sizeof(typename Format::Block)) {
    const Format w = Format::load(data);
    for (int g = 0; g < 8; ++g, out += 32) {
      const Codes codes = w.codes(g / 4);
      const int low = Format::kScales == 8 ? g : 2 * g, high = Format::kScales == 8 ? g : 2 * g + 1;
      if constexpr (Format::kHasMin) {
        store_less(codes.low[g % 4], w.scale[low], w.min[low], out);
        store_less(codes.high[g % 4], w.scale[high], w.min[high], out + 16);
      } else {
        store(codes.low[g % 4], w.scale[low], out);
        store(codes.high[g % 4], w.scale[high], out + 16);
      }
    }
  }
}

template <class Weights>
void decode_halves(const std::byte* data, std::size_t count, float* out) noexcept {
  for (; count >= 4; count -= 4, data += 8, out += 4) vst1q_f32(out, Weights::load(data));
  if (count != 0) {
    std::byte last[8] = {};
    float decoded[4];
    std::memcpy(last, data, 2 * count);
    vst1q_f32(decoded, Weights::load(last));
    std::memcpy(out, decoded, count * sizeof(float));
  }
}

}  // namespace

void decode_f16(const std::byte* data, std::size_t n, float* out) noexcept { decode_halves<F16Weights>(data, n, out); }
void decode_bf16(const std::byte* data, std::size_t n, float* out) noexcept {
  decode_halves<Bf16Weights>(data, n, out);
}
void decode_q4_0(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q4_0>(data, n, out); }
void decode_q4_1(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q4_1>(data, n, out); }
void decode_q5_0(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q5_0>(data, n, out); }
void decode_q5_1(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q5_1>(data, n, out); }
void decode_q8_0(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q8_0>(data, n, out); }
void decode_iq4_nl(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<IQ4_NL>(data, n, out); }
void decode_q2_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q2_K>(data, n, out); }
void decode_q3_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q3_K>(data, n, out); }
void decode_q4_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q4_K>(data, n, out); }
void decode_q5_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q5_K>(data, n, out); }
void decode_q6_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q6_K>(data, n, out); }
void decode_iq4_xs(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<IQ4_XS>(data, n, out); }

}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
