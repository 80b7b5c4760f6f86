#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "base/half.h"
#include "kernels/simd/target.h"

/// The vector of the scalar tier: one lane. The other tiers' headers define the same names in their own namespaces;
/// this one, being plain C++, says what each operation means.
namespace kvant::kernels::scalar {

struct I32 {
  std::int32_t v;
};
struct F32 {
  static constexpr std::size_t kLanes = 1;
  static constexpr std::size_t kRegisters = 8;  ///< vectors that the machine holds at once
  float v;
};

inline F32 zero() { return {0}; }
inline F32 broadcast(float x) { return {x}; }
inline F32 load(const float* p) { return {*p}; }
/// The first n < kLanes lanes from memory, zeros above them; nothing else is read.
inline F32 load_part(const float*, std::size_t) { return {0}; }
inline void store(float* p, F32 a) { *p = a.v; }
inline void store_part(float*, F32, std::size_t) {}
inline F32 load_f16(const std::byte* p) {
  F16 h;
  __builtin_memcpy(&h, p, sizeof h);
  return {to_float(h)};
}
inline F32 load_bf16(const std::byte* p) {
  Bf16 b;
  __builtin_memcpy(&b, p, sizeof b);
  return {to_float(b)};
}
/// One binary16 value in all lanes.
inline F32 broadcast_f16(const std::byte* p) { return load_f16(p); }

/// The same value, loaded once: compilers like to read an operand of several products from memory each time.
inline F32 in_register(F32 a) { return a; }

inline F32 operator+(F32 a, F32 b) { return {a.v + b.v}; }
inline F32 operator-(F32 a, F32 b) { return {a.v - b.v}; }
inline F32 operator*(F32 a, F32 b) { return {a.v * b.v}; }
inline F32 operator/(F32 a, F32 b) { return {a.v / b.v}; }
/// a * b + c; one rounding except in the scalar tier, whose hardware may lack it.
inline F32 fma(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }
/// Of a NaN and a number, max and min give b.
inline F32 max(F32 a, F32 b) { return {a.v > b.v ? a.v : b.v}; }
inline F32 min(F32 a, F32 b) { return {a.v < b.v ? a.v : b.v}; }
/// To the nearest integer, ties to even.
inline F32 round(F32 a) { return {std::nearbyint(a.v)}; }

inline float sum(F32 a) { return a.v; }
inline float max(F32 a) { return a.v; }
/// out[i] = the sum of the lanes of the i-th argument, each in the same order.
inline void sum4(F32 a, F32 b, F32 c, F32 d, float* out) {
  out[0] = a.v;
  out[1] = b.v;
  out[2] = c.v;
  out[3] = d.v;
}

inline float min(F32 a) { return a.v; }
/// Whether the magnitude of every lane is at most that of `limit`; not where there is a NaN.
inline bool all_within(F32 a, F32 limit) { return std::abs(a.v) <= limit.v; }
/// The magnitude must not be negative.
inline F32 with_sign_of(F32 magnitude, F32 sign) { return {std::copysign(magnitude.v, sign.v)}; }
inline void store_f16(std::byte* p, F32 a) {
  const F16 h = to_f16(a.v);
  __builtin_memcpy(p, &h, sizeof h);
}

inline I32 broadcast_i32(std::int32_t x) { return {x}; }
inline I32 load_u8(const std::uint8_t* p) { return {*p}; }
inline I32 load_i8(const std::int8_t* p) { return {*p}; }
/// Lane i is bit first + i of `bits`, as 0 or 16.
inline I32 bit_as_16(std::uint32_t bits, std::size_t first) {
  return {static_cast<std::int32_t>((bits >> first & 1u) << 4)};
}
inline I32 operator+(I32 a, I32 b) { return {a.v + b.v}; }
inline I32 operator&(I32 a, I32 b) { return {a.v & b.v}; }
inline I32 operator|(I32 a, I32 b) { return {a.v | b.v}; }
/// Logical shifts.
template <int n>
I32 shift_left(I32 a) {
  return {static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v) << n)};
}
template <int n>
I32 shift_right(I32 a) {
  return {static_cast<std::int32_t>(static_cast<std::uint32_t>(a.v) >> n)};
}
inline F32 to_f32(I32 a) { return {static_cast<float>(a.v)}; }
/// Of a vector of integers that fit.
inline I32 to_i32(F32 a) { return {static_cast<std::int32_t>(a.v)}; }
/// Towards zero; lanes that do not fit are undefined.
inline I32 truncate(F32 a) { return {static_cast<std::int32_t>(a.v)}; }
inline I32 min(I32 a, I32 b) { return {a.v < b.v ? a.v : b.v}; }
/// The low 8 bits of each lane.
inline void store_u8(std::uint8_t* p, I32 a) { *p = static_cast<std::uint8_t>(a.v); }
/// Lanes from 0 to 65535.
inline void store_u16(std::byte* p, I32 a) {
  const auto bits = static_cast<std::uint16_t>(a.v);
  __builtin_memcpy(p, &bits, sizeof bits);
}
/// Bit i is bit 4 of lane i.
inline std::uint32_t mask_of_16(I32 a) { return static_cast<std::uint32_t>(a.v) >> 4 & 1U; }
inline I32 as_i32(F32 a) { return {std::bit_cast<std::int32_t>(a.v)}; }
inline F32 as_f32(I32 a) { return {std::bit_cast<float>(a.v)}; }

/// The line scale * n + offset over the 16 values n of a nibble.
struct NibbleLine {
  F32 scale, offset;
  NibbleLine(F32 scale_, F32 offset_) : scale(scale_), offset(offset_) {}
  /// Its value at the low 4 bits of each lane.
  F32 operator()(I32 bytes) const { return fma(to_f32(bytes & broadcast_i32(15)), scale, offset); }
};

/// a * 2^n for an integer n of magnitude up to 250: as two factors, of which neither overflows.
inline F32 times_power_of_2(F32 a, F32 n) {
  const F32 half = round(n * broadcast(0.5F));
  const I32 bias = broadcast_i32(127);
  return a * as_f32(shift_left<23>(to_i32(half) + bias)) * as_f32(shift_left<23>(to_i32(n - half) + bias));
}

#include "kernels/simd/exp.h"

}  // namespace kvant::kernels::scalar
