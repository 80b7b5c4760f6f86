#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "gguf/types.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
/// Unpacking of weight blocks into registers, shared by the decode kernels and the row decoders. Codes are bytes in the
/// order of ActivationBlock: of four groups of 32, low[j] holds the values 0-15 of groups 2j and 2j + 1, high[j] their
/// values 16-31. Scales are ordered likewise, one for each lane of four codes.
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {

struct Codes {
  __m256i low[2], high[2];
};

inline __m128i load16(const void* p) noexcept { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline __m256i load16_twice(const void* p) noexcept { return _mm256_broadcastsi128_si256(load16(p)); }
inline __m256i two(const void* a, const void* b) noexcept { return _mm256_set_m128i(load16(b), load16(a)); }

template <class T>
T load(const void* p) noexcept {
  T value{};
  std::memcpy(&value, p, sizeof value);
  return value;
}

inline __m256 half_to_all(const void* p) noexcept {
  return _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(load<std::uint16_t>(p))));
}

/// Dwords a for the first group's lanes, b for the second's.
inline __m256i by_group(int a, int b) noexcept { return _mm256_setr_epi32(a, a, a, a, b, b, b, b); }

/// Bits [first, first + width) of the first group's bytes and [second, ...) of the second's.
inline __m256i bits(__m256i bytes, int first, int second, int mask) noexcept {
  return _mm256_and_si256(_mm256_srlv_epi32(bytes, by_group(first, second)), _mm256_set1_epi8(static_cast<char>(mask)));
}

// Types of 32-value blocks: four at a time. value = d * (code - kOffset) + m. Signed codes have no offset.

/// The half floats at p, p + stride, ... as d[0] (blocks 0 and 1) and d[1] (2 and 3).
inline void load_halves(const std::byte* p, std::size_t stride, __m256 (&d)[2]) noexcept {
  const std::uint64_t four = load<std::uint16_t>(p) | std::uint64_t{load<std::uint16_t>(p + stride)} << 16 |
                             std::uint64_t{load<std::uint16_t>(p + 2 * stride)} << 32 |
                             std::uint64_t{load<std::uint16_t>(p + 3 * stride)} << 48;
  const __m256 f = _mm256_castps128_ps256(_mm_cvtph_ps(_mm_cvtsi64_si128(static_cast<long long>(four))));
  d[0] = _mm256_permutevar8x32_ps(f, by_group(0, 1));
  d[1] = _mm256_permutevar8x32_ps(f, by_group(2, 3));
}

/// Nibbles of the 16 bytes at p, p + stride, ...
inline Codes load_nibbles(const std::byte* p, std::size_t stride) noexcept {
  const __m256i mask = _mm256_set1_epi8(15);
  Codes c;
  for (std::size_t j = 0; j < 2; ++j) {
    const __m256i q = two(p + 2 * j * stride, p + (2 * j + 1) * stride);
    c.low[j] = _mm256_and_si256(q, mask);
    c.high[j] = _mm256_and_si256(_mm256_srli_epi16(q, 4), mask);
  }
  return c;
}

/// 16 in each byte whose bit of the two 16-bit fields (first group low) is set.
inline __m256i fifth_bits(std::uint32_t fields) noexcept {
  const __m256i index = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201));
  const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(fields)), index);
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), _mm256_set1_epi8(16));
}

/// Adds the fifth bits at p, p + stride, ...
inline void add_fifth_bits(const std::byte* p, std::size_t stride, Codes& c) noexcept {
  for (std::size_t j = 0; j < 2; ++j) {
    const auto a = load<std::uint32_t>(p + 2 * j * stride), b = load<std::uint32_t>(p + (2 * j + 1) * stride);
    c.low[j] = _mm256_or_si256(c.low[j], fifth_bits((a & 0xffff) | b << 16));
    c.high[j] = _mm256_or_si256(c.high[j], fifth_bits(a >> 16 | (b & 0xffff0000)));
  }
}

struct Q8_0 {
  using Block = gguf::BlockQ8_0;
  static constexpr bool kSigned = true, kHasMin = false;
  static constexpr int kOffset = 0;
  Codes codes;
  __m256 d[2];
  static Q8_0 load(const std::byte* p) noexcept {
    Q8_0 w;
    load_halves(p, 34, w.d);
    w.codes = {{two(p + 2, p + 36), two(p + 70, p + 104)}, {two(p + 18, p + 52), two(p + 86, p + 120)}};
    return w;
  }
};

struct Q4_0 {
  using Block = gguf::BlockQ4_0;
  static constexpr bool kSigned = false, kHasMin = false;
  static constexpr int kOffset = 8;
  Codes codes;
  __m256 d[2];
  static Q4_0 load(const std::byte* p) noexcept {
    Q4_0 w;
    load_halves(p, 18, w.d);
    w.codes = load_nibbles(p + 2, 18);
    return w;
  }
};

/// Levels of nibbles.
inline Codes look_up(Codes c) noexcept {
  const __m256i table = load16_twice(gguf::kIq4Levels);
  for (int j = 0; j < 2; ++j) {
    c.low[j] = _mm256_shuffle_epi8(table, c.low[j]);
    c.high[j] = _mm256_shuffle_epi8(table, c.high[j]);
  }
  return c;
}

struct IQ4_NL {
  using Block = gguf::BlockIQ4_NL;
  static constexpr bool kSigned = true, kHasMin = false;
  static constexpr int kOffset = 0;
  Codes codes;
  __m256 d[2];
  static IQ4_NL load(const std::byte* p) noexcept {
    IQ4_NL w;
    load_halves(p, 18, w.d);
    w.codes = look_up(load_nibbles(p + 2, 18));
    return w;
  }
};

struct Q4_1 {
  using Block = gguf::BlockQ4_1;
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kOffset = 0;
  Codes codes;
  __m256 d[2], m[2];
  static Q4_1 load(const std::byte* p) noexcept {
    Q4_1 w;
    load_halves(p, 20, w.d);
    load_halves(p + 2, 20, w.m);
    w.codes = load_nibbles(p + 4, 20);
    return w;
  }
};

struct Q5_0 {
  using Block = gguf::BlockQ5_0;
  static constexpr bool kSigned = false, kHasMin = false;
  static constexpr int kOffset = 16;
  Codes codes;
  __m256 d[2];
  static Q5_0 load(const std::byte* p) noexcept {
    Q5_0 w;
    load_halves(p, 22, w.d);
    w.codes = load_nibbles(p + 6, 22);
    add_fifth_bits(p + 2, 22, w.codes);
    return w;
  }
};

struct Q5_1 {
  using Block = gguf::BlockQ5_1;
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kOffset = 0;
  Codes codes;
  __m256 d[2], m[2];
  static Q5_1 load(const std::byte* p) noexcept {
    Q5_1 w;
    load_halves(p, 24, w.d);
    load_halves(p + 2, 24, w.m);
    w.codes = load_nibbles(p + 8, 24);
    add_fifth_bits(p + 4, 24, w.codes);
    return w;
  }
};

// Superblocks with 8 scales. value = scale * (code - kOffset) - min.

/// Scales and mins of q4_k and q5_k: see scales_and_mins in formats_avx512.h.
inline void load_scales(const std::byte* p, __m256& scale, __m256& min) noexcept {
  const __m128i head = load16(p);
  const __m128i low =
      _mm_and_si128(_mm_srlv_epi32(_mm_shuffle_epi32(head, _MM_SHUFFLE(3, 2, 3, 1)), _mm_setr_epi32(0, 0, 0, 4)),
                    _mm_setr_epi32(0x3f3f3f3f, 0x0f0f0f0f, 0x3f3f3f3f, 0x0f0f0f0f));
  const __m128i high = _mm_and_si128(_mm_srli_epi32(_mm_shuffle_epi32(head, _MM_SHUFFLE(2, 2, 1, 1)), 2),
                                     _mm_setr_epi32(0, 0x30303030, 0, 0x30303030));
  const __m128i both = _mm_or_si128(low, high);
  scale = _mm256_mul_ps(half_to_all(p), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(both)));
  min = _mm256_mul_ps(half_to_all(p + 2), _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(both, 8))));
}

struct Q4_K {
  using Block = gguf::BlockQ4_K;
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kOffset = 0, kScales = 8;
  const Block* block;
  __m256 scale, min;
  static Q4_K load(const std::byte* p) noexcept {
    Q4_K w;
    w.block = reinterpret_cast<const Block*>(p);
    load_scales(p, w.scale, w.min);
    return w;
  }
  Codes codes(int half) const noexcept {
    const std::uint8_t* q = block->qs + 64 * half;
    return {{bits(load16_twice(q), 0, 4, 15), bits(load16_twice(q + 32), 0, 4, 15)},
            {bits(load16_twice(q + 16), 0, 4, 15), bits(load16_twice(q + 48), 0, 4, 15)}};
  }
};

struct Q5_K {
  using Block = gguf::BlockQ5_K;
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kOffset = 0, kScales = 8;
  const Block* block;
  __m256 scale, min;
  static Q5_K load(const std::byte* p) noexcept {
    Q5_K w;
    w.block = reinterpret_cast<const Block*>(p);
    load_scales(p, w.scale, w.min);
    return w;
  }
  Codes codes(int half) const noexcept {
    const auto code = [&](int j, int part) {
      const __m256i low = bits(load16_twice(block->qs + 64 * half + 32 * j + part), 0, 4, 15);
      const int bit = 4 * half + 2 * j;
      return _mm256_or_si256(low, _mm256_slli_epi16(bits(load16_twice(block->qh + part), bit, bit + 1, 1), 4));
    };
    return {{code(0, 0), code(1, 0)}, {code(0, 16), code(1, 16)}};
  }
};

struct IQ4_XS {
  using Block = gguf::BlockIQ4_XS;
  static constexpr bool kSigned = true, kHasMin = false;
  static constexpr int kOffset = 0, kScales = 8;
  const Block* block;
  __m256 scale, min;
  static IQ4_XS load(const std::byte* p) noexcept {
    IQ4_XS w;
    const Block* b = w.block = reinterpret_cast<const Block*>(p);
    const __m256i low = _mm256_srlv_epi32(_mm256_set1_epi32(avx2::load<int>(b->scales_l)),
                                          _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    const __m256i high =
        _mm256_srlv_epi32(_mm256_set1_epi32(b->scales_h << 4), _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    const __m256i code =
        _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi32(15)), _mm256_and_si256(high, _mm256_set1_epi32(48)));
    w.scale = _mm256_mul_ps(half_to_all(&b->d), _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(32))));
    w.min = _mm256_setzero_ps();
    return w;
  }
  Codes codes(int half) const noexcept {
    return look_up(load_nibbles(reinterpret_cast<const std::byte*>(block->qs + 64 * half), 16));
  }
};

// Superblocks with 16 scales, scale[h] those of half h. value = scale * (code - kOffset) - min.

/// Eight signed bytes as floats.
inline __m256 widen_i8(__m128i bytes) noexcept { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }

struct Q6_K {
  using Block = gguf::BlockQ6_K;
  static constexpr bool kSigned = false, kHasMin = false;
  static constexpr int kOffset = 32, kScales = 16;
  const Block* block;
  __m256 scale[2], min[2];
  static Q6_K load(const std::byte* p) noexcept {
    Q6_K w;
    w.block = reinterpret_cast<const Block*>(p);
    const __m256 d = half_to_all(&w.block->d);
    const __m128i s = load16(w.block->scales);
    w.scale[0] = _mm256_mul_ps(d, widen_i8(s));
    w.scale[1] = _mm256_mul_ps(d, widen_i8(_mm_srli_si128(s, 8)));
    for (int h = 0; h < 2; ++h) w.min[h] = _mm256_mul_ps(w.scale[h], _mm256_set1_ps(kOffset));
    return w;
  }
  Codes codes(int half) const noexcept {
    const auto part = [&](int at, __m256i(&out)[2]) {
      const std::uint8_t* q = block->ql + 64 * half + at;
      const __m256i nibbles = two(q, q + 32), top = load16_twice(block->qh + 32 * half + at);
      const __m256i mask = _mm256_set1_epi8(15);
      out[0] = _mm256_or_si256(_mm256_and_si256(nibbles, mask), _mm256_slli_epi16(bits(top, 0, 2, 3), 4));
      out[1] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(nibbles, 4), mask),
                               _mm256_slli_epi16(bits(top, 4, 6, 3), 4));
    };
    Codes c;
    part(0, c.low);
    part(16, c.high);
    return c;
  }
};

struct Q2_K {
  using Block = gguf::BlockQ2_K;
  static constexpr bool kSigned = false, kHasMin = true;
  static constexpr int kOffset = 0, kScales = 16;
  const Block* block;
  __m256 scale[2], min[2];
  static Q2_K load(const std::byte* p) noexcept {
    Q2_K w;
    w.block = reinterpret_cast<const Block*>(p);
    const __m256 d = half_to_all(&w.block->d), dmin = half_to_all(&w.block->dmin);
    const __m128i s = load16(w.block->scales), mask = _mm_set1_epi8(15);
    const __m128i low = _mm_and_si128(s, mask), high = _mm_and_si128(_mm_srli_epi16(s, 4), mask);
    w.scale[0] = _mm256_mul_ps(d, widen_i8(low));
    w.scale[1] = _mm256_mul_ps(d, widen_i8(_mm_srli_si128(low, 8)));
    w.min[0] = _mm256_mul_ps(dmin, widen_i8(high));
    w.min[1] = _mm256_mul_ps(dmin, widen_i8(_mm_srli_si128(high, 8)));
    return w;
  }
  Codes codes(int half) const noexcept {
    const __m256i low = load16_twice(block->qs + 32 * half), high = load16_twice(block->qs + 32 * half + 16);
    return {{bits(low, 0, 2, 3), bits(low, 4, 6, 3)}, {bits(high, 0, 2, 3), bits(high, 4, 6, 3)}};
  }
};

struct Q3_K {
  using Block = gguf::BlockQ3_K;
  static constexpr bool kSigned = false, kHasMin = false;
  static constexpr int kOffset = 4, kScales = 16;
  const Block* block;
  __m256 scale[2], min[2];
  static Q3_K load(const std::byte* p) noexcept {
    Q3_K w;
    w.block = reinterpret_cast<const Block*>(p);
    const __m256 d = half_to_all(&w.block->d);
    const __m128i s = scales(w.block->scales);
    w.scale[0] = _mm256_mul_ps(d, widen_i8(s));
    w.scale[1] = _mm256_mul_ps(d, widen_i8(_mm_srli_si128(s, 8)));
    for (int h = 0; h < 2; ++h) w.min[h] = _mm256_mul_ps(w.scale[h], _mm256_set1_ps(kOffset));
    return w;
  }
  /// The 6-bit scales less 32: see formats_avx512.h.
  static __m128i scales(const std::uint8_t* field) noexcept {
    const __m128i nibbles = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(field));
    const __m128i low = _mm_and_si128(_mm_unpacklo_epi64(nibbles, _mm_srli_epi16(nibbles, 4)), _mm_set1_epi8(15));
    const __m128i top = _mm_srlv_epi32(_mm_set1_epi32(avx2::load<int>(field + 8)), _mm_setr_epi32(0, 2, 4, 6));
    const __m128i high = _mm_slli_epi16(_mm_and_si128(top, _mm_set1_epi8(3)), 4);
    return _mm_sub_epi8(_mm_or_si128(low, high), _mm_set1_epi8(32));
  }
  Codes codes(int half) const noexcept {
    const auto code = [&](int j, int part) {
      const __m256i low = bits(load16_twice(block->qs + 32 * half + part), 4 * j, 4 * j + 2, 3);
      const int bit = 4 * half + 2 * j;
      return _mm256_or_si256(low, _mm256_slli_epi16(bits(load16_twice(block->hmask + part), bit, bit + 1, 1), 2));
    };
    return {{code(0, 0), code(1, 0)}, {code(0, 16), code(1, 16)}};
  }
};

// Floats: 8 weights at `p`.

struct F32Weights {
  static constexpr std::size_t kBytes = 4;
  static __m256 load(const std::byte* p) noexcept { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
};
struct F16Weights {
  static constexpr std::size_t kBytes = 2;
  static __m256 load(const std::byte* p) noexcept { return _mm256_cvtph_ps(load16(p)); }
};
struct Bf16Weights {
  static constexpr std::size_t kBytes = 2;
  static __m256 load(const std::byte* p) noexcept {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load16(p)), 16));
  }
};

}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
