#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "gguf/types.h"
#include "kernels/simd/target.h"

#ifdef KVANT_ARM64
/// Unpacking of weight blocks into registers, shared by the decode kernels and the row decoders. Codes are signed
/// bytes, less the type's offset, in the order of ActivationBlock: of four groups of 32, low[g] holds the values 0-15
/// of group g, high[g] its values 16-31.
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {

struct Codes {
  int8x16_t low[4], high[4];
};

template <class T>
T load(const void* p) noexcept {
  T value{};
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline uint8x16_t load16(const void* p) noexcept { return vld1q_u8(static_cast<const std::uint8_t*>(p)); }

/// Bits [first, first + width) of each byte, `mask` having that width, moved to bit `to`.
inline uint8x16_t bits(uint8x16_t bytes, int first, std::uint8_t mask, int to) noexcept {
  return vshlq_u8(vandq_u8(vshlq_u8(bytes, vdupq_n_s8(static_cast<std::int8_t>(-first))), vdupq_n_u8(mask)),
                  vdupq_n_s8(static_cast<std::int8_t>(to)));
}
inline uint8x16_t low_nibbles(uint8x16_t q) noexcept { return vandq_u8(q, vdupq_n_u8(15)); }
inline uint8x16_t high_nibbles(uint8x16_t q) noexcept { return vshrq_n_u8(q, 4); }
inline int8x16_t less(uint8x16_t codes, int offset) noexcept {
  return vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(static_cast<std::int8_t>(offset)));
}

// Types of 32-value blocks: four at a time. value = d * code + m.

/// The half floats at p, p + stride, ...
inline float32x4_t load_halves(const std::byte* p, std::size_t stride) noexcept {
  const std::uint64_t four = load<std::uint16_t>(p) | std::uint64_t{load<std::uint16_t>(p + stride)} << 16 |
                             std::uint64_t{load<std::uint16_t>(p + 2 * stride)} << 32 |
                             std::uint64_t{load<std::uint16_t>(p + 3 * stride)} << 48;
  return vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(four)));
}

struct Q8_0 {
  using Block = gguf::BlockQ8_0;
  static constexpr bool kHasMin = false;
  Codes codes;
  float32x4_t d, m;
  static Q8_0 load(const std::byte* p) noexcept {
    Q8_0 w;
    w.d = load_halves(p, 34);
    for (int g = 0; g < 4; ++g) {
      w.codes.low[g] = vreinterpretq_s8_u8(load16(p + 34 * g + 2));
      w.codes.high[g] = vreinterpretq_s8_u8(load16(p + 34 * g + 18));
    }
    return w;
  }
};

/// Blocks of 16 bytes of nibbles: d [m] [fifth bits] nibbles.
template <class Block_, int kOffset, bool kMin, bool kFifth, bool kTable>
struct NibbleBlocks {
  using Block = Block_;
  static constexpr bool kHasMin = kMin;
  Codes codes;
  float32x4_t d, m;

  /// 16 in each byte whose bit is set.
  static uint8x16_t fifth(std::uint32_t field) noexcept {
    const auto low = static_cast<std::uint8_t>(field), high = static_cast<std::uint8_t>(field >> 8);
    const uint8x16_t bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201));
    const uint8x16_t set = vtstq_u8(vcombine_u8(vdup_n_u8(low), vdup_n_u8(high)), bit);
    return vandq_u8(set, vdupq_n_u8(16));
  }
  static NibbleBlocks load(const std::byte* p) noexcept {
    constexpr std::size_t kFifthAt = kMin ? 4 : 2, kCodesAt = sizeof(Block) - 16;
    NibbleBlocks w;
    w.d = load_halves(p, sizeof(Block));
    if constexpr (kMin) w.m = load_halves(p + 2, sizeof(Block));
    for (int g = 0; g < 4; ++g, p += sizeof(Block)) {
      const uint8x16_t q = load16(p + kCodesAt);
      uint8x16_t low = low_nibbles(q), high = high_nibbles(q);
      if constexpr (kFifth) {
        const auto field = neon::load<std::uint32_t>(p + kFifthAt);
        low = vorrq_u8(low, fifth(field));
        high = vorrq_u8(high, fifth(field >> 16));
      }
      if constexpr (kTable) {
        const int8x16_t table = vld1q_s8(gguf::kIq4Levels);
        w.codes.low[g] = vqtbl1q_s8(table, low);
        w.codes.high[g] = vqtbl1q_s8(table, high);
      } else {
        w.codes.low[g] = less(low, kOffset);
        w.codes.high[g] = less(high, kOffset);
      }
    }
    return w;
  }
};
using Q4_0 = NibbleBlocks<gguf::BlockQ4_0, 8, false, false, false>;
using Q4_1 = NibbleBlocks<gguf::BlockQ4_1, 0, true, false, false>;
using Q5_0 = NibbleBlocks<gguf::BlockQ5_0, 16, false, true, false>;
using Q5_1 = NibbleBlocks<gguf::BlockQ5_1, 0, true, true, false>;
using IQ4_NL = NibbleBlocks<gguf::BlockIQ4_NL, 0, false, false, true>;

// Superblocks with a scale for each 32 values (kScales 8) or 16 (kScales 16). value = scale * code - min.

/// d * scale and dmin * min of q4_k and q5_k: 0-3 in the low six bits of bytes 0-3 and 4-7, 4-7 in the nibbles of bytes
/// 8-11 with their upper bits on top of bytes 0-3 and 4-7.
inline void load_scales(F16 d, F16 dmin, const std::uint8_t* field, float* scale, float* min) noexcept {
  const float factor = to_float(d), min_factor = to_float(dmin);
  for (int i = 0; i < 4; ++i) {
    const int a = field[i], b = field[4 + i], c = field[8 + i];
    scale[i] = factor * static_cast<float>(a & 63);
    min[i] = min_factor * static_cast<float>(b & 63);
    scale[4 + i] = factor * static_cast<float>((c & 15) | a >> 6 << 4);
    min[4 + i] = min_factor * static_cast<float>(c >> 4 | b >> 6 << 4);
  }
}

struct Q4_K {
  using Block = gguf::BlockQ4_K;
  static constexpr bool kHasMin = true;
  static constexpr int kScales = 8;
  const Block* block;
  float scale[8], min[8];
  static Q4_K load(const std::byte* p) noexcept {
    Q4_K w;
    w.block = reinterpret_cast<const Block*>(p);
    load_scales(w.block->d, w.block->dmin, w.block->scales, w.scale, w.min);
    return w;
  }
  Codes codes(int half) const noexcept {
    Codes c;
    for (int j = 0; j < 2; ++j) {
      const std::uint8_t* q = block->qs + 64 * half + 32 * j;
      const uint8x16_t low = load16(q), high = load16(q + 16);
      c.low[2 * j] = less(low_nibbles(low), 0);
      c.high[2 * j] = less(low_nibbles(high), 0);
      c.low[2 * j + 1] = less(high_nibbles(low), 0);
      c.high[2 * j + 1] = less(high_nibbles(high), 0);
    }
    return c;
  }
};

struct Q5_K {
  using Block = gguf::BlockQ5_K;
  static constexpr bool kHasMin = true;
  static constexpr int kScales = 8;
  const Block* block;
  float scale[8], min[8];
  static Q5_K load(const std::byte* p) noexcept {
    Q5_K w;
    w.block = reinterpret_cast<const Block*>(p);
    load_scales(w.block->d, w.block->dmin, w.block->scales, w.scale, w.min);
    return w;
  }
  Codes codes(int half) const noexcept {
    const uint8x16_t low_bits = load16(block->qh), high_bits = load16(block->qh + 16);
    Codes c;
    for (int g = 0; g < 4; ++g) {
      const std::uint8_t* q = block->qs + 64 * half + 32 * (g / 2);
      const int shift = g % 2 * 4, bit = 4 * half + g;
      c.low[g] = less(vorrq_u8(bits(load16(q), shift, 15, 0), bits(low_bits, bit, 1, 4)), 0);
      c.high[g] = less(vorrq_u8(bits(load16(q + 16), shift, 15, 0), bits(high_bits, bit, 1, 4)), 0);
    }
    return c;
  }
};

struct IQ4_XS {
  using Block = gguf::BlockIQ4_XS;
  static constexpr bool kHasMin = false;
  static constexpr int kScales = 8;
  const Block* block;
  float scale[8], min[8];
  static IQ4_XS load(const std::byte* p) noexcept {
    IQ4_XS w;
    w.block = reinterpret_cast<const Block*>(p);
    const float d = to_float(w.block->d);
    for (int i = 0; i < 8; ++i) {
      const int low = w.block->scales_l[i / 2] >> (i % 2 * 4) & 15;
      w.scale[i] = d * static_cast<float>((low | (w.block->scales_h >> (2 * i) & 3) << 4) - 32);
    }
    return w;
  }
  Codes codes(int half) const noexcept {
    const int8x16_t table = vld1q_s8(gguf::kIq4Levels);
    Codes c;
    for (int g = 0; g < 4; ++g) {
      const uint8x16_t q = load16(block->qs + 64 * half + 16 * g);
      c.low[g] = vqtbl1q_s8(table, low_nibbles(q));
      c.high[g] = vqtbl1q_s8(table, high_nibbles(q));
    }
    return c;
  }
};

struct Q6_K {
  using Block = gguf::BlockQ6_K;
  static constexpr bool kHasMin = false;
  static constexpr int kScales = 16;
  const Block* block;
  float scale[16], min[16];
  static Q6_K load(const std::byte* p) noexcept {
    Q6_K w;
    w.block = reinterpret_cast<const Block*>(p);
    const float d = to_float(w.block->d);
    for (int i = 0; i < 16; ++i) w.scale[i] = d * static_cast<float>(w.block->scales[i]);
    return w;
  }
  Codes codes(int half) const noexcept {
    const auto code = [&](int g, int part) {
      const uint8x16_t nibble = bits(load16(block->ql + 64 * half + g % 2 * 32 + part), g / 2 * 4, 15, 0);
      return less(vorrq_u8(nibble, bits(load16(block->qh + 32 * half + part), 2 * g, 3, 4)), 32);
    };
    Codes c;
    for (int g = 0; g < 4; ++g) {
      c.low[g] = code(g, 0);
      c.high[g] = code(g, 16);
    }
    return c;
  }
};

struct Q2_K {
  using Block = gguf::BlockQ2_K;
  static constexpr bool kHasMin = true;
  static constexpr int kScales = 16;
  const Block* block;
  float scale[16], min[16];
  static Q2_K load(const std::byte* p) noexcept {
    Q2_K w;
    w.block = reinterpret_cast<const Block*>(p);
    const float d = to_float(w.block->d), dmin = to_float(w.block->dmin);
    for (int i = 0; i < 16; ++i) {
      w.scale[i] = d * static_cast<float>(w.block->scales[i] & 15);
      w.min[i] = dmin * static_cast<float>(w.block->scales[i] >> 4);
    }
    return w;
  }
  Codes codes(int half) const noexcept {
    Codes c;
    for (int g = 0; g < 4; ++g) {
      c.low[g] = less(bits(load16(block->qs + 32 * half), 2 * g, 3, 0), 0);
      c.high[g] = less(bits(load16(block->qs + 32 * half + 16), 2 * g, 3, 0), 0);
    }
    return c;
  }
};

struct Q3_K {
  using Block = gguf::BlockQ3_K;
  static constexpr bool kHasMin = false;
  static constexpr int kScales = 16;
  const Block* block;
  float scale[16], min[16];
  static Q3_K load(const std::byte* p) noexcept {
    Q3_K w;
    w.block = reinterpret_cast<const Block*>(p);
    const float d = to_float(w.block->d);
    for (int i = 0; i < 16; ++i) {
      const int low = w.block->scales[i % 8] >> (i / 8 * 4) & 15;
      const int high = w.block->scales[8 + i % 4] >> (i / 4 * 2) & 3;
      w.scale[i] = d * static_cast<float>((low | high << 4) - 32);
    }
    return w;
  }
  Codes codes(int half) const noexcept {
    const auto code = [&](int g, int part) {
      const uint8x16_t low = bits(load16(block->qs + 32 * half + part), 2 * g, 3, 0);
      return less(vorrq_u8(low, bits(load16(block->hmask + part), 4 * half + g, 1, 2)), 4);
    };
    Codes c;
    for (int g = 0; g < 4; ++g) {
      c.low[g] = code(g, 0);
      c.high[g] = code(g, 16);
    }
    return c;
  }
};

// Floats: four weights at `p`.

struct F32Weights {
  static constexpr std::size_t kBytes = 4;
  static float32x4_t load(const std::byte* p) noexcept { return vreinterpretq_f32_u8(load16(p)); }
};
struct F16Weights {
  static constexpr std::size_t kBytes = 2;
  static float32x4_t load(const std::byte* p) noexcept {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(reinterpret_cast<const std::uint8_t*>(p))));
  }
};
struct Bf16Weights {
  static constexpr std::size_t kBytes = 2;
  static float32x4_t load(const std::byte* p) noexcept {
    const uint16x4_t q = vreinterpret_u16_u8(vld1_u8(reinterpret_cast<const std::uint8_t*>(p)));
    return vreinterpretq_f32_u32(vshll_n_u16(q, 16));
  }
};

}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
