#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/simd/target.h"

#ifdef KVANT_ARM64
/// 4 lanes; what each operation means: kernels/simd/f32_scalar.h.
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {

struct I32 {
  int32x4_t v;
};
struct F32 {
  static constexpr std::size_t kLanes = 4;
  static constexpr std::size_t kRegisters = 32;
  float32x4_t v;
};

inline F32 zero() { return {vdupq_n_f32(0)}; }
inline F32 broadcast(float x) { return {vdupq_n_f32(x)}; }
inline F32 load(const float* p) { return {vld1q_f32(p)}; }
inline F32 load_part(const float* p, std::size_t n) {
  float lanes[4] = {};
  for (std::size_t i = 0; i < n; ++i) lanes[i] = p[i];
  return load(lanes);
}
inline void store(float* p, F32 a) { vst1q_f32(p, a.v); }
inline void store_part(float* p, F32 a, std::size_t n) {
  float lanes[4];
  store(lanes, a);
  for (std::size_t i = 0; i < n; ++i) p[i] = lanes[i];
}
inline F32 load_f16(const std::byte* p) {
  return {vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(reinterpret_cast<const std::uint8_t*>(p))))};
}
inline F32 load_bf16(const std::byte* p) {
  const uint16x4_t bits = vreinterpret_u16_u8(vld1_u8(reinterpret_cast<const std::uint8_t*>(p)));
  return {vreinterpretq_f32_u32(vshll_n_u16(bits, 16))};
}
inline F32 broadcast_f16(const std::byte* p) {
  std::uint16_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return {vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(bits)))};
}

inline F32 in_register(F32 a) {
  asm("" : "+w"(a.v));
  return a;
}

inline F32 operator+(F32 a, F32 b) { return {vaddq_f32(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {vsubq_f32(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {vmulq_f32(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {vdivq_f32(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
/// Here a NaN wins on either side.
inline F32 max(F32 a, F32 b) { return {vmaxq_f32(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {vminq_f32(a.v, b.v)}; }
inline F32 round(F32 a) { return {vrndnq_f32(a.v)}; }

inline float sum(F32 a) { return vaddvq_f32(a.v); }
inline float max(F32 a) { return vmaxvq_f32(a.v); }
inline void sum4(F32 a, F32 b, F32 c, F32 d, float* out) {
  vst1q_f32(out, vpaddq_f32(vpaddq_f32(a.v, b.v), vpaddq_f32(c.v, d.v)));
}

inline void max4(F32 a, F32 b, F32 c, F32 d, float* out) {
  vst1q_f32(out, vpmaxq_f32(vpmaxq_f32(a.v, b.v), vpmaxq_f32(c.v, d.v)));
}

inline float min(F32 a) { return vminvq_f32(a.v); }
inline bool all_within(F32 a, F32 limit) { return vminvq_u32(vcleq_f32(vabsq_f32(a.v), limit.v)) != 0; }
inline F32 with_sign_of(F32 magnitude, F32 sign) { return {vbslq_f32(vdupq_n_u32(0x80000000U), sign.v, magnitude.v)}; }
inline void store_f16(std::byte* p, F32 a) {
  vst1_u8(reinterpret_cast<std::uint8_t*>(p), vreinterpret_u8_f16(vcvt_f16_f32(a.v)));
}

inline I32 broadcast_i32(std::int32_t x) { return {vdupq_n_s32(x)}; }
inline I32 load_u8(const std::uint8_t* p) {
  std::uint32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  const uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)));
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)))};
}
inline I32 load_i8(const std::int8_t* p) {
  std::uint32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof bytes);
  const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(bytes)));
  return {vmovl_s16(vget_low_s16(wide))};
}
inline I32 bit_as_16(std::uint32_t bits, std::size_t first) {
  const std::uint32_t lanes[4] = {1, 2, 4, 8};
  const uint32x4_t set = vtstq_u32(vdupq_n_u32(bits >> first), vld1q_u32(lanes));
  return {vreinterpretq_s32_u32(vandq_u32(set, vdupq_n_u32(16)))};
}
inline I32 operator+(I32 a, I32 b) { return {vaddq_s32(a.v, b.v)}; }
inline I32 operator&(I32 a, I32 b) { return {vandq_s32(a.v, b.v)}; }
inline I32 operator|(I32 a, I32 b) { return {vorrq_s32(a.v, b.v)}; }
template <int n>
I32 shift_left(I32 a) {
  return {vshlq_n_s32(a.v, n)};
}
template <int n>
I32 shift_right(I32 a) {
  return {vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(a.v), n))};
}
inline F32 to_f32(I32 a) { return {vcvtq_f32_s32(a.v)}; }
inline I32 to_i32(F32 a) { return {vcvtnq_s32_f32(a.v)}; }
inline I32 truncate(F32 a) { return {vcvtq_s32_f32(a.v)}; }
inline I32 min(I32 a, I32 b) { return {vminq_s32(a.v, b.v)}; }
inline void store_u8(std::uint8_t* p, I32 a) {
  const uint16x4_t half = vmovn_u32(vreinterpretq_u32_s32(a.v));
  const std::uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(half, half))), 0);
  __builtin_memcpy(p, &bytes, sizeof bytes);
}
inline void store_u16(std::byte* p, I32 a) {
  vst1_u8(reinterpret_cast<std::uint8_t*>(p), vreinterpret_u8_u16(vmovn_u32(vreinterpretq_u32_s32(a.v))));
}
inline std::uint32_t mask_of_16(I32 a) {
  const std::uint32_t lanes[4] = {1, 2, 4, 8};
  const uint32x4_t set = vtstq_s32(a.v, vdupq_n_s32(16));
  return vaddvq_u32(vandq_u32(set, vld1q_u32(lanes)));
}
inline I32 as_i32(F32 a) { return {vreinterpretq_s32_f32(a.v)}; }
inline F32 as_f32(I32 a) { return {vreinterpretq_f32_s32(a.v)}; }

struct NibbleLine {
  F32 scale, offset;
  NibbleLine(F32 scale_, F32 offset_) : scale(scale_), offset(offset_) {}
  F32 operator()(I32 bytes) const { return fma(to_f32(bytes & broadcast_i32(15)), scale, offset); }
};

inline F32 times_power_of_2(F32 a, F32 n) {
  const I32 exponent = to_i32(n) + broadcast_i32(2 * 127);  // in two halves, as its range is greater than a float's
  const I32 low = shift_right<1>(exponent), high = shift_right<1>(exponent + broadcast_i32(1));
  return a * as_f32(shift_left<23>(low)) * as_f32(shift_left<23>(high));
}

#include "kernels/simd/exp.h"

}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
