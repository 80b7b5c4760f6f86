#include "gguf/decode.h"

// A superblock's 256 values are stored so that a register of bytes holds 32 consecutive values at one bit position:
// values are addressed here as (group of 32 values, lane within the group).
namespace kvant::gguf {
namespace {

constexpr int kGroups = 8;
constexpr int kLanes = 32;

/// Scale and min of a sub-block, d and dmin multiplied in.
struct Affine {
  float scale, min;
};

/// Of sub-block s (32 values) of q4_k or q5_k. The 6-bit factors of s < 4 are the low six bits of bytes s and s + 4 of
/// scales; for s >= 4 their low four bits share byte s + 4, and the top bits of bytes s - 4 and s are their high two.
template <class Block>
Affine affine(const Block& block, int s) {
  const auto& bytes = block.scales;
  const int scale = s < 4 ? bytes[s] & 63 : (bytes[s + 4] & 15) | bytes[s - 4] >> 6 << 4;
  const int min = s < 4 ? bytes[s + 4] & 63 : bytes[s + 4] >> 4 | bytes[s] >> 6 << 4;
  return {to_float(block.d) * static_cast<float>(scale), to_float(block.dmin) * static_cast<float>(min)};
}

/// The 6-bit scale of sub-block s of q3_k: low four bits in the low (s < 8) or high nibble of byte s % 8, high two at
/// bit 2 * (s / 4) of byte 8 + s % 4.
int scale_q3(const std::uint8_t (&scales)[12], int s) {
  const int low = scales[s % 8] >> (s / 8 * 4) & 15;
  const int high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
  return low | high << 4;
}

/// The two-bit code in a field of q2_k and q3_k, or the upper bits of q6_k: groups 0-3 lie in bytes 0-31 at bits 0, 2,
/// 4, 6, groups 4-7 in bytes 32-63.
int two_bits(const std::uint8_t (&field)[64], int group, int lane) {
  return field[group / 4 * kLanes + lane] >> (group % 4 * 2) & 3;
}

/// The four-bit code of q4_k and q5_k: groups 2i and 2i + 1 are the low and high nibbles of bytes 32i to 32i + 31.
int nibble(const std::uint8_t (&field)[128], int group, int lane) {
  return field[group / 2 * kLanes + lane] >> (group % 2 * 4) & 15;
}

/// Sets every value of a superblock to value(of(sub-block of 16), group, lane).
template <class Of, class Value>
void for_values(float* out, Of of, Value value) {
  for (int sub = 0; sub < 2 * kGroups; ++sub) {
    const auto coefficient = of(sub);
    const int group = sub / 2;
    for (int lane = sub % 2 * 16; lane < sub % 2 * 16 + 16; ++lane) {
      out[group * kLanes + lane] = value(coefficient, group, lane);
    }
  }
}

}  // namespace

void decode(const BlockQ2_K& block, float* out) noexcept {
  const float d = to_float(block.d);
  const float dmin = to_float(block.dmin);
  for_values(
      out,
      [&](int sub) {
        return Affine{d * static_cast<float>(block.scales[sub] & 15),
                      dmin * static_cast<float>(block.scales[sub] >> 4)};
      },
      [&](Affine of, int group, int lane) {
        return of.scale * static_cast<float>(two_bits(block.qs, group, lane)) - of.min;
      });
}

void decode(const BlockQ3_K& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_values(
      out, [&](int sub) { return d * static_cast<float>(scale_q3(block.scales, sub) - 32); },
      [&](float scale, int group, int lane) {
        const int high = block.hmask[lane] >> group & 1;
        return scale * static_cast<float>((two_bits(block.qs, group, lane) | high << 2) - 4);
      });
}

void decode(const BlockQ4_K& block, float* out) noexcept {
  for_values(
      out, [&](int sub) { return affine(block, sub / 2); },
      [&](Affine of, int group, int lane) {
        return of.scale * static_cast<float>(nibble(block.qs, group, lane)) - of.min;
      });
}

void decode(const BlockQ5_K& block, float* out) noexcept {
  for_values(
      out, [&](int sub) { return affine(block, sub / 2); },
      [&](Affine of, int group, int lane) {
        const int q = nibble(block.qs, group, lane) | (block.qh[lane] >> group & 1) << 4;
        return of.scale * static_cast<float>(q) - of.min;
      });
}

void decode(const BlockQ6_K& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_values(
      out, [&](int sub) { return d * static_cast<float>(block.scales[sub]); },
      [&](float scale, int group, int lane) {
        // Of each half's four groups the first two are the low nibbles of its 64 bytes of ql, the others the high ones.
        const int byte = group / 4 * 64 + group % 2 * kLanes + lane;
        const int low = block.ql[byte] >> (group % 4 / 2 * 4) & 15;
        const int q = low | two_bits(block.qh, group, lane) << 4;
        return scale * static_cast<float>(q - 32);
      });
}

void decode(const BlockIQ4_XS& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_values(
      out,
      [&](int sub) {
        const int group = sub / 2;
        const int low = block.scales_l[group / 2] >> (group % 2 * 4) & 15;
        return d * static_cast<float>((low | (block.scales_h >> (group * 2) & 3) << 4) - 32);
      },
      [&](float scale, int group, int lane) {
        const int q = block.qs[group * 16 + lane % 16] >> (lane / 16 * 4) & 15;
        return scale * static_cast<float>(kIq4Levels[q]);
      });
}

}  // namespace kvant::gguf
