#include "gguf/decode.h"

// A superblock's 256 values are stored so that a register of bytes holds 32 consecutive values at one bit position:
// values are addressed here as (group of 32 values, lane within the group).
namespace kvant::gguf {
namespace {

constexpr int kGroups = 8;
constexpr int kLanes = 32;

struct ScaleMin {
  int scale, min;
};

/// The 6-bit scale and min of sub-block s of q4_k and q5_k: whole in the low six bits of bytes s and s + 4 for s < 4;
/// for s >= 4 the low four bits share byte s + 4 and the high two are the top bits of bytes s - 4 and s.
ScaleMin scale_min(const std::uint8_t (&scales)[12], int s) {
  if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
  return {(scales[s + 4] & 15) | scales[s - 4] >> 6 << 4, scales[s + 4] >> 4 | scales[s] >> 6 << 4};
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

/// Sets every value of a superblock to value(group, lane, sub-block of 16).
template <class Decode>
void for_values(float* out, Decode value) {
  for (int group = 0; group < kGroups; ++group) {
    for (int lane = 0; lane < kLanes; ++lane) out[group * kLanes + lane] = value(group, lane, group * 2 + lane / 16);
  }
}

}  // namespace

void decode(const BlockQ2_K& block, float* out) noexcept {
  const float d = to_float(block.d);
  const float dmin = to_float(block.dmin);
  for_values(out, [&](int group, int lane, int sub) {
    const auto scale = static_cast<float>(block.scales[sub] & 15);
    const auto min = static_cast<float>(block.scales[sub] >> 4);
    return d * scale * static_cast<float>(two_bits(block.qs, group, lane)) - dmin * min;
  });
}

void decode(const BlockQ3_K& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_values(out, [&](int group, int lane, int sub) {
    const auto scale = static_cast<float>(scale_q3(block.scales, sub) - 32);
    const int high = block.hmask[lane] >> group & 1;
    return d * scale * static_cast<float>((two_bits(block.qs, group, lane) | high << 2) - 4);
  });
}

void decode(const BlockQ4_K& block, float* out) noexcept {
  const float d = to_float(block.d);
  const float dmin = to_float(block.dmin);
  for_values(out, [&](int group, int lane, int) {
    const auto [scale, min] = scale_min(block.scales, group);
    const int q = nibble(block.qs, group, lane);
    return d * static_cast<float>(scale) * static_cast<float>(q) - dmin * static_cast<float>(min);
  });
}

void decode(const BlockQ5_K& block, float* out) noexcept {
  const float d = to_float(block.d);
  const float dmin = to_float(block.dmin);
  for_values(out, [&](int group, int lane, int) {
    const auto [scale, min] = scale_min(block.scales, group);
    const int q = nibble(block.qs, group, lane) | (block.qh[lane] >> group & 1) << 4;
    return d * static_cast<float>(scale) * static_cast<float>(q) - dmin * static_cast<float>(min);
  });
}

void decode(const BlockQ6_K& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_values(out, [&](int group, int lane, int sub) {
    // Of each half's four groups the first two are the low nibbles of its 64 bytes of ql, the others the high ones.
    const int byte = group / 4 * 64 + group % 2 * kLanes + lane;
    const int low = block.ql[byte] >> (group % 4 / 2 * 4) & 15;
    const int q = low | two_bits(block.qh, group, lane) << 4;
    return d * static_cast<float>(block.scales[sub]) * static_cast<float>(q - 32);
  });
}

void decode(const BlockIQ4_XS& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_values(out, [&](int group, int lane, int) {
    const int low = block.scales_l[group / 2] >> (group % 2 * 4) & 15;
    const int scale = (low | (block.scales_h >> (group * 2) & 3) << 4) - 32;
    const int q = block.qs[group * 16 + lane % 16] >> (lane / 16 * 4) & 15;
    return d * static_cast<float>(scale) * static_cast<float>(kIq4Levels[q]);
  });
}

}  // namespace kvant::gguf
