#pragma once
#include <utility>

#include "kernels/codes/common.h"
#include "kernels/simd/f32_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {

// What each of these means: kernels/codes/lanes_avx512.h.

using Words = uint32x4_t;
/// Less 128, as signed numbers.
template <int bits>
using Bytes = int8x16_t;
template <int bits>
using Whole = std::int8_t;

constexpr int kCoarseQuery = 127, kCoarseWeight = 255;

constexpr std::int32_t kByteBias = 128;
constexpr std::size_t kCodeRows = 6;
constexpr std::size_t token_vectors(std::size_t rows) { return rows > 3 ? 2 : 4; }
template <int bits>
constexpr std::size_t kDimVectors = 1;

inline Words load_words(const void* p) { return vreinterpretq_u32_u8(vld1q_u8(static_cast<const std::uint8_t*>(p))); }
inline void store_words(void* p, Words a) { vst1q_u8(static_cast<std::uint8_t*>(p), vreinterpretq_u8_u32(a)); }
inline Words set_words(std::int32_t x) { return vdupq_n_u32(static_cast<std::uint32_t>(x)); }
inline Words add(Words a, Words b) { return vaddq_u32(a, b); }
inline F32 words_to_f32(Words a) { return {vcvtq_f32_s32(vreinterpretq_s32_u32(a))}; }

template <int from, int to>
Words move_bits(Words words) {
  if constexpr (from > to) return vshrq_n_u32(words, from - to);
  if constexpr (from < to) return vshlq_n_u32(words, to - from);
  return words;
}

template <int mask>
Words select_bits(Words low, Words high) {
  return vbslq_u32(vreinterpretq_u32_u8(vdupq_n_u8(mask)), low, high);
}
template <int mask>
Words keep_bits(Words a) {
  return vandq_u32(a, vreinterpretq_u32_u8(vdupq_n_u8(mask)));
}

template <int bits>
constexpr Places places(Places from) {
  return bits <= 4 ? places_in_nibbles<bits>(from) : Places{0, 4};
}

struct Table {
  uint8x16x4_t bytes;

  explicit Table(const CodeTable& table) {
    for (std::size_t i = 0; i < 4; ++i) bytes.val[i] = vld1q_u8(table.bytes.data() + 16 * i);
  }
  template <int bits, Places at>
  [[gnu::always_inline]] Words look_up(Words low, Words high) const {
    constexpr int kLow = low_width(bits), kMask = ((1 << kLow) - 1) << at.low;
    const Words codes = keep_bits < bits <= 4 ? 0x0f : 0x3f > (bits == kLow ? low : select_bits<kMask>(low, high));
    const uint8x16_t index = vreinterpretq_u8_u32(codes);
    if constexpr (bits > 4) return vreinterpretq_u32_u8(vqtbl4q_u8(bytes, index));
    const uint8x16_t table = vqtbl1q_u8(bytes.val[0], vld1q_u8(kCodesAt<bits, at>.data()));
    return vreinterpretq_u32_u8(vqtbl1q_u8(table, index));
  }
};

template <int bits>
Table value_table(const CodeTable& table) {
  return Table(table);
}
template <int bits>
constexpr std::int32_t kValueBias = kByteBias;

template <int bits>
[[gnu::always_inline]] inline int8x16_t to_bytes(Words words) {
  return vreinterpretq_s8_u8(veorq_u8(vreinterpretq_u8_u32(words), vdupq_n_u8(0x80)));
}
[[gnu::always_inline]] inline Words dot(Words sums, int8x16_t bytes, const std::int8_t* four) {
  std::int32_t word = 0;
  __builtin_memcpy(&word, four, sizeof word);
  return vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(sums), bytes, vreinterpretq_s8_s32(vdupq_n_s32(word))));
}

template <std::size_t rows, int bits>
using QueryRows = ByteQueries;

struct WholeWeights {
  std::array<std::int8_t, kPageTokens> high, low;

  template <bool coarse>
  void set(const I32 (&whole)[16]) {
    for (std::size_t i = 0; i < 8; ++i) {
      const int16x8_t both = vcombine_s16(vmovn_s32(whole[2 * i].v), vmovn_s32(whole[2 * i + 1].v));
      vst1_s8(high.data() + 8 * i, vmovn_s16(vshrq_n_s16(both, 7)));
      vst1_s8(low.data() + 8 * i, vmovn_s16(vandq_s16(both, vdupq_n_s16(127))));
    }
  }
};

template <bool coarse>
struct WeightedSums {
  Words high, low;

  [[gnu::always_inline]] void start(Words from) {
    high = vdupq_n_u32(0);
    low = from;
  }
  [[gnu::always_inline]] void add_four(int8x16_t bytes, const WholeWeights& weights, std::size_t token) {
    high = dot(high, bytes, weights.high.data() + token);
    low = dot(low, bytes, weights.low.data() + token);
  }
  [[gnu::always_inline]] Words total() const { return add(vshlq_n_u32(high, 7), low); }
};

inline F32 load_log_scales(const std::byte* p) {
  float scales[4];
  for (std::size_t i = 0; i < 4; ++i)
    scales[i] = codec::decode_scale(codec::ScaleFormat::log8, static_cast<std::uint8_t>(p[i]));
  return load(scales);
}

#include "kernels/codes/planes.h"

}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
