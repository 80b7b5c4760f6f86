#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/simd/target.h"

#ifdef KVANT_X86
/// 16 lanes; what each operation means: kernels/simd/f32_scalar.h.
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {

struct I32 {
  __m512i v;
};
struct F32 {
  static constexpr std::size_t kLanes = 16;
  static constexpr std::size_t kRegisters = 32;
  __m512 v;
};

inline __mmask16 first_lanes(std::size_t n) { return static_cast<__mmask16>((1u << n) - 1); }

inline F32 zero() { return {_mm512_setzero_ps()}; }
inline F32 broadcast(float x) { return {_mm512_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline F32 load_part(const float* p, std::size_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
inline void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline void store_part(float* p, F32 a, std::size_t n) { _mm512_mask_storeu_ps(p, first_lanes(n), a.v); }
inline __m256i load_32_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline __m128i load_16_bytes(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline F32 load_f16(const std::byte* p) { return {_mm512_cvtph_ps(load_32_bytes(p))}; }
inline F32 load_bf16(const std::byte* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_32_bytes(p)), 16))};
}
inline F32 broadcast_f16(const std::byte* p) {
  std::uint16_t bits = 0;
  __builtin_memcpy(&bits, p, sizeof bits);
  return {_mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))};
}

inline F32 in_register(F32 a) {
  asm("" : "+v"(a.v));
  return a;
}

inline F32 operator+(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 operator-(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 operator*(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 operator/(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 round(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }

inline float sum(F32 a) { return _mm512_reduce_add_ps(a.v); }
inline float max(F32 a) { return _mm512_reduce_max_ps(a.v); }
/// Folds the lanes of each of four vectors to one.
template <class Fold>
[[gnu::always_inline]] inline void fold4(F32 a, F32 b, F32 c, F32 d, float* out, Fold fold) {
  const auto pairs = [&](__m512 x, __m512 y) {  // in each 128 bits: of x0 and x2, y0 and y2, x1 and x3, y1 and y3
    return _mm512_castps_pd(fold(_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y)));
  };
  const __m512d ab = pairs(a.v, b.v), cd = pairs(c.v, d.v);
  const __m512 abcd = fold(_mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)), _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)));
  const __m256 half = fold(_mm512_castps512_ps256(abcd), _mm512_extractf32x8_ps(abcd, 1));
  _mm_storeu_ps(out, fold(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
}
struct Sum {
  __m512 operator()(__m512 a, __m512 b) const { return _mm512_add_ps(a, b); }
  __m256 operator()(__m256 a, __m256 b) const { return _mm256_add_ps(a, b); }
  __m128 operator()(__m128 a, __m128 b) const { return _mm_add_ps(a, b); }
};
struct Max {
  __m512 operator()(__m512 a, __m512 b) const { return _mm512_max_ps(a, b); }
  __m256 operator()(__m256 a, __m256 b) const { return _mm256_max_ps(a, b); }
  __m128 operator()(__m128 a, __m128 b) const { return _mm_max_ps(a, b); }
};
inline void sum4(F32 a, F32 b, F32 c, F32 d, float* out) { fold4(a, b, c, d, out, Sum{}); }
inline void max4(F32 a, F32 b, F32 c, F32 d, float* out) { fold4(a, b, c, d, out, Max{}); }

inline float min(F32 a) { return _mm512_reduce_min_ps(a.v); }
inline bool all_within(F32 a, F32 limit) { return _mm512_cmp_ps_mask(_mm512_abs_ps(a.v), limit.v, _CMP_NLE_UQ) == 0; }
inline F32 with_sign_of(F32 magnitude, F32 sign) {
  return {_mm512_or_ps(magnitude.v, _mm512_and_ps(sign.v, _mm512_set1_ps(-0.0F)))};
}
inline void store_f16(std::byte* p, F32 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline I32 broadcast_i32(std::int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I32 load_u8(const std::uint8_t* p) { return {_mm512_cvtepu8_epi32(load_16_bytes(p))}; }
inline I32 load_i8(const std::int8_t* p) { return {_mm512_cvtepi8_epi32(load_16_bytes(p))}; }
inline I32 bit_as_16(std::uint32_t bits, std::size_t first) {
  return {_mm512_maskz_set1_epi32(static_cast<__mmask16>(bits >> first), 16)};
}
inline I32 operator+(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32 operator&(I32 a, I32 b) { return {_mm512_and_si512(a.v, b.v)}; }
inline I32 operator|(I32 a, I32 b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int n>
I32 shift_left(I32 a) {
  return {_mm512_slli_epi32(a.v, n)};
}
template <int n>
I32 shift_right(I32 a) {
  return {_mm512_srli_epi32(a.v, n)};
}
inline F32 to_f32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline I32 to_i32(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
inline I32 truncate(F32 a) { return {_mm512_cvttps_epi32(a.v)}; }
inline I32 min(I32 a, I32 b) { return {_mm512_min_epi32(a.v, b.v)}; }
inline void store_u8(std::uint8_t* p, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
inline void store_u16(std::byte* p, I32 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(a.v));
}
inline std::uint32_t mask_of_16(I32 a) { return _mm512_test_epi32_mask(a.v, _mm512_set1_epi32(16)); }
inline I32 as_i32(F32 a) { return {_mm512_castps_si512(a.v)}; }
inline F32 as_f32(I32 a) { return {_mm512_castsi512_ps(a.v)}; }

/// A table of the 16 values: one permutation reads the low 4 bits of each lane and ignores the others.
struct NibbleLine {
  F32 table;
  NibbleLine(F32 scale, F32 offset)
      : table(fma({_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)}, scale, offset)) {}
  F32 operator()(I32 bytes) const { return {_mm512_permutexvar_ps(bytes.v, table.v)}; }
};

inline F32 times_power_of_2(F32 a, F32 n) { return {_mm512_scalef_ps(a.v, n.v)}; }

#include "kernels/simd/exp.h"

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
