#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/simd/target.h"

#ifdef KVANT_X86
/// 8 lanes; what each operation means: kernels/simd/f32_scalar.h.
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {

struct I32 {
  __m256i v;
};
struct F32 {
  static constexpr std::size_t kLanes = 8;
  static constexpr std::size_t kRegisters = 16;
  __m256 v;
};

inline __m256i first_lanes(std::size_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F32 zero() { return {_mm256_setzero_ps()}; }
inline F32 broadcast(float x) { return {_mm256_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline F32 load_part(const float* p, std::size_t n) { return {_mm256_maskload_ps(p, first_lanes(n))}; }
inline void store(float* p, F32 a) { _mm256_storeu_ps(p, a.v); }
inline void store_part(float* p, F32 a, std::size_t n) { _mm256_maskstore_ps(p, first_lanes(n), a.v); }
inline __m128i load_16_bytes(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m128i load_8_bytes(const void* p) { return _mm_loadl_epi64(static_cast<const __m128i*>(p)); }
inline F32 load_f16(const std::byte* p) { return {_mm256_cvtph_ps(load_16_bytes(p))}; }
inline F32 load_bf16(const std::byte* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_16_bytes(p)), 16))};
}
inline F32 broadcast_f16(const std::byte* p) {
  std::uint16_t bits = 0;
  __builtin_memcpy(&bits, p, sizeof bits);
  return {_mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))};
}

inline F32 in_register(F32 a) {
  asm("" : "+x"(a.v));
  return a;
}

inline F32 operator+(F32 a, F32 b) { return {_mm256_add_ps(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm256_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.v, b.v)}; }
inline F32 round(F32 a) { return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

inline float sum(F32 a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
inline float max(F32 a) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}
inline void sum4(F32 a, F32 b, F32 c, F32 d, float* out) {
  const __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(a.v, b.v), _mm256_hadd_ps(c.v, d.v));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

inline __m256 max_pairs(__m256 a, __m256 b) {  // in each 128 bits: of a0 and a2, b0 and b2, a1 and a3, b1 and b3
  return _mm256_max_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
}
inline void max4(F32 a, F32 b, F32 c, F32 d, float* out) {
  const __m256d ab = _mm256_castps_pd(max_pairs(a.v, b.v)), cd = _mm256_castps_pd(max_pairs(c.v, d.v));
  const __m256 abcd =
      _mm256_max_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd)), _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd)));
  _mm_storeu_ps(out, _mm_max_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1)));
}

inline float min(F32 a) {
  __m128 s = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_min_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_min_ss(s, _mm_movehdup_ps(s)));
}
inline bool all_within(F32 a, F32 limit) {
  const __m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v);
  return _mm256_movemask_ps(_mm256_cmp_ps(magnitude, limit.v, _CMP_NLE_UQ)) == 0;
}
inline F32 with_sign_of(F32 magnitude, F32 sign) {
  return {_mm256_or_ps(magnitude.v, _mm256_and_ps(sign.v, _mm256_set1_ps(-0.0F)))};
}
inline void store_f16(std::byte* p, F32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}

inline I32 broadcast_i32(std::int32_t x) { return {_mm256_set1_epi32(x)}; }
inline I32 load_u8(const std::uint8_t* p) { return {_mm256_cvtepu8_epi32(load_8_bytes(p))}; }
inline I32 load_i8(const std::int8_t* p) { return {_mm256_cvtepi8_epi32(load_8_bytes(p))}; }
inline I32 bit_as_16(std::uint32_t bits, std::size_t first) {
  const __m256i lane = _mm256_setr_epi32(1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9, 1 << 10, 1 << 11);
  const __m256i here = _mm256_set1_epi32(static_cast<int>((bits >> first & 0xffu) << 4));
  return {_mm256_and_si256(_mm256_cmpeq_epi32(_mm256_and_si256(here, lane), lane), _mm256_set1_epi32(16))};
}
inline I32 operator+(I32 a, I32 b) { return {_mm256_add_epi32(a.v, b.v)}; }
inline I32 operator&(I32 a, I32 b) { return {_mm256_and_si256(a.v, b.v)}; }
inline I32 operator|(I32 a, I32 b) { return {_mm256_or_si256(a.v, b.v)}; }
template <int n>
I32 shift_left(I32 a) {
  return {_mm256_slli_epi32(a.v, n)};
}
template <int n>
I32 shift_right(I32 a) {
  return {_mm256_srli_epi32(a.v, n)};
}
inline F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline I32 to_i32(F32 a) { return {_mm256_cvtps_epi32(a.v)}; }
inline I32 truncate(F32 a) { return {_mm256_cvttps_epi32(a.v)}; }
inline I32 min(I32 a, I32 b) { return {_mm256_min_epi32(a.v, b.v)}; }
inline void store_u8(std::uint8_t* p, I32 a) {
  const __m256i first = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1,
                                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m256i bytes = _mm256_shuffle_epi8(a.v, first);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p),
                   _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
}
inline void store_u16(std::byte* p, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(a.v), _mm256_extracti128_si256(a.v, 1)));
}
inline std::uint32_t mask_of_16(I32 a) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a.v, 27))));
}
inline I32 as_i32(F32 a) { return {_mm256_castps_si256(a.v)}; }
inline F32 as_f32(I32 a) { return {_mm256_castsi256_ps(a.v)}; }

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

}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
