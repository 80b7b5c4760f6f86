#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "gguf/types.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
/// Unpacking of weight blocks into registers, shared by the decode kernels and the panel decoders. Codes are unsigned
/// bytes in the order of ActivationBlock: `low` holds the values 0-15 of four groups of 32, `high` their values 16-31.
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {

struct Codes {
  __m512i low, high;
};

inline __m128i load16(const void* p) noexcept { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m512i load64(const void* p) noexcept { return _mm512_loadu_si512(p); }
/// Unaligned load whose result several permutations use: kept in a register, as a second unaligned load costs more than
/// they.
inline __m512i load64_once(const void* p) noexcept {
  __m512i r = load64(p);
  asm("" : "+v"(r));
  return r;
}
inline __m512i load16_to_all(const void* p) noexcept { return _mm512_broadcast_i32x4(load16(p)); }

inline std::uint32_t load_u32(const void* p) noexcept {
  std::uint32_t value = 0;
  std::memcpy(&value, p, sizeof value);
  return value;
}

/// The 16 half floats in the low half of a register.
inline __m512 widen_half(__m512i halves) noexcept { return _mm512_cvtph_ps(_mm512_castsi512_si256(halves)); }
inline __m512 half_to_all(const void* p) noexcept {
  std::uint16_t bits = 0;
  std::memcpy(&bits, p, sizeof bits);
  return _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_set1_epi16(static_cast<short>(bits))));
}

/// Dword indices: lanes 4g to 4g + 3 get a, b, c, d for g = 0 to 3.
inline __m512i by_group(int a, int b, int c, int d) noexcept {
  return _mm512_setr_epi32(a, a, a, a, b, b, b, b, c, c, c, c, d, d, d, d);
}

/// Word indices for permutex2var: 16-byte pieces that start at bytes a, b, c, d (even; 64 and above: second register).
inline __m512i pieces(int a, int b, int c, int d) noexcept {
  const __m512i step = _mm512_broadcast_i32x4(_mm_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7));
  const __m512i start = by_group(a / 2 * 0x10001, b / 2 * 0x10001, c / 2 * 0x10001, d / 2 * 0x10001);
  return _mm512_add_epi16(step, start);
}

/// Word indices: the half floats at bytes a, b, c, d, each for the four lanes of its group.
inline __m512i words(int a, int b, int c, int d) noexcept {
  const auto pair = [](int x, int y) {
    return static_cast<std::int64_t>(x / 2 * 0x10001) | static_cast<std::int64_t>(y / 2 * 0x10001) << 32;
  };
  return _mm512_setr_epi64(pair(a, a), pair(b, b), pair(c, c), pair(d, d), 0, 0, 0, 0);
}

inline Codes split_nibbles(__m512i q) noexcept {
  const __m512i mask = _mm512_set1_epi8(15);
  return {_mm512_and_si512(q, mask), _mm512_and_si512(_mm512_srli_epi16(q, 4), mask)};
}

/// Adds 16 to the codes whose bit in the groups' fifth-bit fields is set; `bits` holds at its words 0-3 the bits of
/// the low codes, at 4-7 those of the high ones.
inline Codes with_fifth_bits(Codes c, __m512i bits) noexcept {
  const __m128i b = _mm512_castsi512_si128(bits);
  const auto low = _cvtu64_mask64(static_cast<std::uint64_t>(_mm_cvtsi128_si64(b)));
  const auto high = _cvtu64_mask64(static_cast<std::uint64_t>(_mm_extract_epi64(b, 1)));
  const __m512i bit = _mm512_set1_epi8(16);
  return {_mm512_mask_add_epi8(c.low, low, c.low, bit), _mm512_mask_add_epi8(c.high, high, c.high, bit)};
}

/// Word indices of eight 2-byte fields.
inline __m512i eight_words(int a, int b, int c, int d, int e, int f, int g, int h) noexcept {
  const auto w = [](int x) { return static_cast<short>(x / 2); };
  return _mm512_castsi128_si512(_mm_setr_epi16(w(a), w(b), w(c), w(d), w(e), w(f), w(g), w(h)));
}

// Types of 32-value blocks: four at a time. value = d * (code - kOffset) + m.
// Bytes past the first 64 come from a second load that ends with the last block (at `kSecond`): nothing behind it is
// read.

struct Q8_0 {
  using Block = gguf::BlockQ8_0;
  static constexpr int kOffset = 128;
  static constexpr bool kHasMin = false;
  Codes codes;
  __m512 d;
  static Q8_0 load(const std::byte* p) noexcept {
    const __m512i a = load64_once(p), b = load64_once(p + 68), c = load64(p + 16), e = load64(p + 72);
    const __m512i low = _mm512_permutex2var_epi16(a, pieces(2, 36, 64 + 2, 64 + 36), b);
    const __m512i high = _mm512_permutex2var_epi16(c, pieces(2, 36, 64 + 14, 64 + 48), e);
    const __m512i flip = _mm512_set1_epi8(-128);
    return {{_mm512_xor_si512(low, flip), _mm512_xor_si512(high, flip)},
            widen_half(_mm512_permutex2var_epi16(a, words(0, 34, 64, 64 + 34), b))};
  }
};

struct Q4_0 {
  using Block = gguf::BlockQ4_0;
  static constexpr int kOffset = 8;
  static constexpr bool kHasMin = false;
  Codes codes;
  __m512 d;
  static Q4_0 load(const std::byte* p) noexcept {
    const __m512i a = load64_once(p), b = load64(p + 8);
    return {split_nibbles(_mm512_permutex2var_epi16(a, pieces(2, 20, 38, 64 + 48), b)),
            widen_half(_mm512_permutexvar_epi16(words(0, 18, 36, 54), a))};
  }
};

struct IQ4_NL {
  using Block = gguf::BlockIQ4_NL;
  static constexpr int kOffset = 128;
  static constexpr bool kHasMin = false;
  Codes codes;
  __m512 d;
  /// Level + 128 of each nibble.
  static Codes look_up(Codes c) noexcept {
    const __m512i table = _mm512_xor_si512(load16_to_all(gguf::kIq4Levels), _mm512_set1_epi8(-128));
    return {_mm512_shuffle_epi8(table, c.low), _mm512_shuffle_epi8(table, c.high)};
  }
  static IQ4_NL load(const std::byte* p) noexcept {
    const Q4_0 q = Q4_0::load(p);
    return {look_up(q.codes), q.d};
  }
};

struct Q4_1 {
  using Block = gguf::BlockQ4_1;
  static constexpr int kOffset = 0;
  static constexpr bool kHasMin = true;
  Codes codes;
  __m512 d, m;
  static Q4_1 load(const std::byte* p) noexcept {
    const __m512i a = load64_once(p), b = load64_once(p + 16);
    return {split_nibbles(_mm512_permutex2var_epi16(a, pieces(4, 24, 44, 64 + 48), b)),
            widen_half(_mm512_permutexvar_epi16(words(0, 20, 40, 60), a)),
            widen_half(_mm512_permutexvar_epi16(words(2, 22, 42, 62), a))};
  }
};

struct Q5_0 {
  using Block = gguf::BlockQ5_0;
  static constexpr int kOffset = 16;
  static constexpr bool kHasMin = false;
  Codes codes;
  __m512 d;
  static Q5_0 load(const std::byte* p) noexcept {
    const __m512i a = load64_once(p), b = load64_once(p + 24);  // byte i of b is byte 24 + i of the blocks
    const Codes c = split_nibbles(_mm512_permutex2var_epi16(a, pieces(6, 28, 64 + 26, 64 + 48), b));
    const __m512i bits = _mm512_permutex2var_epi16(a, eight_words(2, 24, 46, 64 + 44, 4, 26, 48, 64 + 46), b);
    return {with_fifth_bits(c, bits), widen_half(_mm512_permutex2var_epi16(a, words(0, 22, 44, 64 + 42), b))};
  }
};

struct Q5_1 {
  using Block = gguf::BlockQ5_1;
  static constexpr int kOffset = 0;
  static constexpr bool kHasMin = true;
  Codes codes;
  __m512 d, m;
  static Q5_1 load(const std::byte* p) noexcept {
    const __m512i a = load64_once(p), b = load64_once(p + 32);  // byte i of b is byte 32 + i of the blocks
    const Codes c = split_nibbles(_mm512_permutex2var_epi16(a, pieces(8, 32, 64 + 24, 64 + 48), b));
    const __m512i bits = _mm512_permutex2var_epi16(a, eight_words(4, 28, 52, 64 + 44, 6, 30, 54, 64 + 46), b);
    return {with_fifth_bits(c, bits), widen_half(_mm512_permutex2var_epi16(a, words(0, 24, 48, 64 + 40), b)),
            widen_half(_mm512_permutex2var_epi16(a, words(2, 26, 50, 64 + 42), b))};
  }
};

// Superblocks with 8 scales. value = scale * (code - kOffset) - min; scales in lanes 0-7, mins in lanes 8-15.

/// The 6-bit scales (bytes 0-7) and mins (bytes 8-15) of q4_k and q5_k, whose first 16 bytes are d, dmin and three
/// dwords: 0-3 in the low six bits of dwords 0 and 1, 4-7 in the nibbles of dword 2 with their upper bits on top of
/// those.
inline __m128i scales_and_mins(__m128i head) noexcept {
  const __m128i low =
      _mm_and_si128(_mm_srlv_epi32(_mm_shuffle_epi32(head, _MM_SHUFFLE(3, 2, 3, 1)), _mm_setr_epi32(0, 0, 0, 4)),
                    _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  const __m128i high = _mm_and_si128(_mm_srli_epi32(_mm_shuffle_epi32(head, _MM_SHUFFLE(2, 2, 1, 1)), 2),
                                     _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
  return _mm_or_si128(low, high);
}

/// d * scale in lanes 0-7, dmin * min in lanes 8-15 of a q4_k or q5_k block.
inline __m512 scaled(const std::byte* p) noexcept {
  const __m128i head = load16(p);
  const __m512 factors = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1),
                                               _mm512_castps128_ps512(_mm_cvtph_ps(head)));
  return _mm512_mul_ps(factors, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(scales_and_mins(head))));
}

/// Codes of four groups from 64 bytes of q4_k and q5_k, upper nibbles not yet masked off.
inline Codes nibbles_by_pairs(__m512i q) noexcept {
  const __m512i shift = by_group(0, 4, 0, 4);
  return {_mm512_srlv_epi32(_mm512_permutex_epi64(q, 0x44), shift),
          _mm512_srlv_epi32(_mm512_permutex_epi64(q, 0xee), shift)};
}

/// (a & 15) | (b & mask)
inline __m512i join(__m512i a, __m512i b, int mask) noexcept {
  const __m512i both = _mm512_ternarylogic_epi32(_mm512_set1_epi8(15), a, b, 0xca);
  return _mm512_and_si512(both, _mm512_set1_epi8(static_cast<char>(15 | mask)));
}

struct Q4_K {
  using Block = gguf::BlockQ4_K;
  static constexpr int kScales = 8;
  static constexpr int kOffset = 0;
  static constexpr bool kHasMin = true;
  Codes codes[2];
  __m512 scale;
  static Q4_K load(const std::byte* p) noexcept {
    const auto* b = reinterpret_cast<const Block*>(p);
    const __m512i mask = _mm512_set1_epi8(15);
    Q4_K w;
    for (int h = 0; h < 2; ++h) {
      const Codes c = nibbles_by_pairs(load64(b->qs + 64 * h));
      w.codes[h] = {_mm512_and_si512(c.low, mask), _mm512_and_si512(c.high, mask)};
    }
    w.scale = scaled(p);
    return w;
  }
};

struct Q5_K {
  using Block = gguf::BlockQ5_K;
  static constexpr int kScales = 8;
  static constexpr int kOffset = 0;
  static constexpr bool kHasMin = true;
  Codes codes[2];
  __m512 scale;
  static Q5_K load(const std::byte* p) noexcept {
    const auto* b = reinterpret_cast<const Block*>(p);
    const __m512i low_bits = load16_to_all(b->qh), high_bits = load16_to_all(b->qh + 16);
    Q5_K w;
    for (int h = 0; h < 2; ++h) {
      const Codes c = nibbles_by_pairs(load64(b->qs + 64 * h));
      const __m512i rotate = h == 0 ? by_group(4, 3, 2, 1) : by_group(0, 31, 30, 29);  // bit 4h + group to bit 4
      w.codes[h] = {join(c.low, _mm512_rolv_epi32(low_bits, rotate), 16),
                    join(c.high, _mm512_rolv_epi32(high_bits, rotate), 16)};
    }
    w.scale = scaled(p);
    return w;
  }
};

struct IQ4_XS {
  using Block = gguf::BlockIQ4_XS;
  static constexpr int kScales = 8;
  static constexpr int kOffset = 128;
  static constexpr bool kHasMin = false;
  Codes codes[2];
  __m512 scale;
  static IQ4_XS load(const std::byte* p) noexcept {
    const auto* b = reinterpret_cast<const Block*>(p);
    IQ4_XS w;
    for (int h = 0; h < 2; ++h) w.codes[h] = IQ4_NL::look_up(split_nibbles(load64(b->qs + 64 * h)));
    const __m512i low = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(load_u32(b->scales_l))),
                                          _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m512i high = _mm512_srlv_epi32(_mm512_set1_epi32(b->scales_h << 4),
                                           _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0));
    const __m512i code =
        _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi32(15)), _mm512_and_si512(high, _mm512_set1_epi32(48)));
    w.scale = _mm512_mul_ps(half_to_all(&b->d), _mm512_cvtepi32_ps(_mm512_sub_epi32(code, _mm512_set1_epi32(32))));
    return w;
  }
};

// Superblocks with 16 scales. value = scale * (code - kOffset) - min.

struct Q6_K {
  using Block = gguf::BlockQ6_K;
  static constexpr int kScales = 16;
  static constexpr int kOffset = 32;
  static constexpr bool kHasMin = false;
  Codes codes[2];
  __m512 scale;
  /// What the sum of 16 activations is multiplied by and subtracted.
  __m512 minus() const noexcept { return _mm512_mul_ps(scale, _mm512_set1_ps(kOffset)); }
  static Q6_K load(const std::byte* p) noexcept {
    const auto* b = reinterpret_cast<const Block*>(p);
    const __m512i shift = by_group(0, 0, 4, 4);
    const __m512i rotate = by_group(4, 2, 0, 30);  // bits 2 * group to bits 4 and 5
    Q6_K w;
    for (int h = 0; h < 2; ++h) {
      const __m512i q = load64(b->ql + 64 * h);
      const __m512i low = _mm512_srlv_epi32(_mm512_shuffle_i32x4(q, q, 0x88), shift);
      const __m512i high = _mm512_srlv_epi32(_mm512_shuffle_i32x4(q, q, 0xdd), shift);
      w.codes[h] = {join(low, _mm512_rolv_epi32(load16_to_all(b->qh + 32 * h), rotate), 48),
                    join(high, _mm512_rolv_epi32(load16_to_all(b->qh + 32 * h + 16), rotate), 48)};
    }
    w.scale = _mm512_mul_ps(half_to_all(&b->d), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load16(b->scales))));
    return w;
  }
};

struct Q2_K {
  using Block = gguf::BlockQ2_K;
  static constexpr int kScales = 16;
  static constexpr int kOffset = 0;
  static constexpr bool kHasMin = true;
  Codes codes[2];
  __m512 scale, min;
  __m512 minus() const noexcept { return min; }
  static Q2_K load(const std::byte* p) noexcept {
    const auto* b = reinterpret_cast<const Block*>(p);
    const __m512i shift = by_group(0, 2, 4, 6), mask = _mm512_set1_epi8(3);
    Q2_K w;
    for (int h = 0; h < 2; ++h) {
      w.codes[h] = {_mm512_and_si512(_mm512_srlv_epi32(load16_to_all(b->qs + 32 * h), shift), mask),
                    _mm512_and_si512(_mm512_srlv_epi32(load16_to_all(b->qs + 32 * h + 16), shift), mask)};
    }
    const __m512i field = _mm512_cvtepu8_epi32(load16(b->scales));
    w.scale = _mm512_mul_ps(half_to_all(&b->d), _mm512_cvtepi32_ps(_mm512_and_si512(field, _mm512_set1_epi32(15))));
    w.min = _mm512_mul_ps(half_to_all(&b->dmin), _mm512_cvtepi32_ps(_mm512_srli_epi32(field, 4)));
    return w;
  }
};

struct Q3_K {
  using Block = gguf::BlockQ3_K;
  static constexpr int kScales = 16;
  static constexpr int kOffset = 4;
  static constexpr bool kHasMin = false;
  Codes codes[2];
  __m512 scale;
  /// What the sum of 16 activations is multiplied by and subtracted.
  __m512 minus() const noexcept { return _mm512_mul_ps(scale, _mm512_set1_ps(kOffset)); }
  static Q3_K load(const std::byte* p) noexcept {
    const auto* b = reinterpret_cast<const Block*>(p);
    const __m512i low_bits = load16_to_all(b->hmask), high_bits = load16_to_all(b->hmask + 16);
    const __m512i shift = by_group(0, 2, 4, 6);
    Q3_K w;
    for (int h = 0; h < 2; ++h) {
      const __m512i rotate = h == 0 ? by_group(2, 1, 0, 31) : by_group(30, 29, 28, 27);  // bit 4h + group to bit 2
      const auto code = [&](const std::uint8_t* q, __m512i bits) {
        const __m512i two = _mm512_and_si512(_mm512_srlv_epi32(load16_to_all(q), shift), _mm512_set1_epi8(3));
        return _mm512_or_si512(two, _mm512_and_si512(_mm512_rolv_epi32(bits, rotate), _mm512_set1_epi8(4)));
      };
      w.codes[h] = {code(b->qs + 32 * h, low_bits), code(b->qs + 32 * h + 16, high_bits)};
    }
    w.scale = _mm512_mul_ps(half_to_all(&b->d), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(scales(b->scales))));
    return w;
  }
  /// The 6-bit scales less 32: low nibbles of 0-7 and 8-15 in the nibbles of the first 8 bytes, upper bits of 4i to
  /// 4i + 3 at bit 2i of the other four.
  static __m128i scales(const std::uint8_t* field) noexcept {
    const __m128i nibbles = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(field));
    const __m128i low = _mm_and_si128(_mm_unpacklo_epi64(nibbles, _mm_srli_epi16(nibbles, 4)), _mm_set1_epi8(15));
    const __m128i top =
        _mm_srlv_epi32(_mm_set1_epi32(static_cast<int>(load_u32(field + 8))), _mm_setr_epi32(0, 2, 4, 6));
    const __m128i high = _mm_slli_epi16(_mm_and_si128(top, _mm_set1_epi8(3)), 4);
    return _mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32));
  }
};

// Floats: 16 weights at `p`, those outside `lanes` neither read nor other than zero.

struct F32Weights {
  static constexpr std::size_t kBytes = 4;
  static __m512 load(const std::byte* p, __mmask16 lanes) noexcept { return _mm512_maskz_loadu_ps(lanes, p); }
};
struct F16Weights {
  static constexpr std::size_t kBytes = 2;
  static __m512 load(const std::byte* p, __mmask16 lanes) noexcept {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
  }
};
struct Bf16Weights {
  static constexpr std::size_t kBytes = 2;
  static __m512 load(const std::byte* p, __mmask16 lanes) noexcept {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes, p)), 16));
  }
};

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
