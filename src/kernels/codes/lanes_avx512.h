#pragma once
#include <utility>

#include "kernels/codes/common.h"
#include "kernels/simd/f32_avx512.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {

/// What score.h and mix.h are made of. Lanes hold words of four codes, of consecutive dims or tokens; later four bytes
/// of the table, and sums.
using Words = __m512i;
/// The bytes of words in the form that dot takes, and the whole numbers to multiply with.
template <int bits>
using Bytes = Words;
template <int bits>
using Whole = std::int8_t;

/// As in CodeKernels.
constexpr int kCoarseQuery = 127, kCoarseWeight = 255;
/// What is missing from a byte in dot.
constexpr std::int32_t kByteBias = 0;
/// A register tile: rows at most, vectors of tokens for `rows` of them (score), vectors of dims (mix).
constexpr std::size_t kCodeRows = 6;
constexpr std::size_t token_vectors(std::size_t) { return 4; }
template <int bits>
constexpr std::size_t kDimVectors = bits <= kCoarseBits ? 4 : 2;

inline Words load_words(const void* p) { return _mm512_loadu_si512(p); }
inline void store_words(void* p, Words a) { _mm512_storeu_si512(p, a); }
inline Words set_words(std::int32_t x) { return _mm512_set1_epi32(x); }
inline Words add(Words a, Words b) { return _mm512_add_epi32(a, b); }
inline F32 words_to_f32(Words a) { return {_mm512_cvtepi32_ps(a)}; }

/// Moves the bit at `from` in each byte to `to`; its neighbours go along. A rotation would do as well, but takes the
/// ports of dot products on Zen 4, where shifts have their own.
template <int from, int to>
Words move_bits(Words words) {
  if constexpr (from == to) return words;
  if constexpr (from > to) return _mm512_srli_epi32(words, static_cast<unsigned>(from - to));
  return _mm512_slli_epi32(words, static_cast<unsigned>(to - from));
}

/// Bits of `low` where the mask has ones in a byte, of `high` elsewhere.
template <int mask>
Words select_bits(Words low, Words high) {
  return _mm512_ternarylogic_epi32(low, _mm512_set1_epi8(static_cast<char>(mask)), high, 0xe2);
}
template <int mask>
Words keep_bits(Words a) {
  return _mm512_and_si512(a, _mm512_set1_epi8(static_cast<char>(mask)));
}

/// Where the fields of a code of up to 6 bits are moved to be looked up.
template <int bits>
constexpr Places places(Places) {
  return {0, low_width(bits)};
}

/// The bytes of codes of up to 6 bits, which may have anything above them: the permutation reads 6 bits, and the table
/// repeats itself.
struct Table {
  __m512i bytes;
  explicit Table(const CodeTable& table) : bytes(load_words(table.bytes.data())) {}

  /// From words with the fields of both planes at these places, and anything around them.
  template <int bits, Places at>
  [[gnu::always_inline]] Words look_up(Words low, Words high) const {
    const Words codes = bits == low_width(bits) ? low : select_bits<(1 << at.high) - 1>(low, high);
    return _mm512_permutexvar_epi8(codes, bytes);
  }
};

/// The table that values of so many bits are mixed with, and what is missing from its bytes.
template <int bits>
Table value_table(const CodeTable& table) {
  Table t(table);
  if constexpr (bits <= kCoarseBits) t.bytes = _mm512_xor_si512(t.bytes, _mm512_set1_epi8(static_cast<char>(0x80)));
  return t;
}
template <int bits>
constexpr std::int32_t kValueBias = bits <= kCoarseBits ? 128 : kByteBias;

template <int bits>
[[gnu::always_inline]] inline Words to_bytes(Words words) {
  return words;
}
/// Adds to each lane the products of its bytes without a sign with those of the other, which have one.
[[gnu::always_inline]] inline Words add_products(Words sums, Words without_sign, Words with_sign) {
  sums = _mm512_dpbusd_epi32(sums, without_sign, with_sign);
  asm("" : "+v"(sums));  // keeps sums in place: g++ would move and spill them
  return sums;
}
[[gnu::always_inline]] inline Words broadcast_four(const std::int8_t* four) {
  std::int32_t word = 0;
  __builtin_memcpy(&word, four, sizeof word);
  return _mm512_set1_epi32(word);
}

/// The whole numbers of a page's tokens as dot takes them: 128 * high + low; coarse ones are low alone, without a sign.
struct WholeWeights {
  alignas(64) std::array<std::int8_t, kPageTokens> high, low;

  template <bool coarse>
  void set(const I32 (&whole)[4]) {
    const __m512i first = _mm512_packus_epi32(whole[0].v, whole[1].v);
    const __m512i second = _mm512_packus_epi32(whole[2].v, whole[3].v);
    if constexpr (coarse) return store_words(low.data(), bytes_of(first, second));
    const __m512i mask = _mm512_set1_epi16(127);
    store_words(low.data(), bytes_of(_mm512_and_si512(first, mask), _mm512_and_si512(second, mask)));
    store_words(high.data(), bytes_of(_mm512_srli_epi16(first, 7), _mm512_srli_epi16(second, 7)));
  }

 private:
  /// The bytes of two vectors of 16 bits, each packed from two of 32 within its 128 bits, in order.
  static __m512i bytes_of(__m512i first, __m512i second) {
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_epi32(order, _mm512_packus_epi16(first, second));
  }
};

#include "kernels/codes/dots.h"

inline F32 load_log_scales(const std::byte* p) {
  const __m512i stored = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512 octave = _mm512_castps256_ps512(_mm256_loadu_ps(kOctave.data()));
  const __m512 fraction = _mm512_permutexvar_ps(_mm512_and_si512(stored, _mm512_set1_epi32(7)), octave);
  const __m512i exponent = _mm512_sub_epi32(_mm512_srli_epi32(stored, 3), _mm512_set1_epi32(16));
  return {_mm512_castsi512_ps(_mm512_maskz_add_epi32(_mm512_test_epi32_mask(stored, stored),
                                                     _mm512_castps_si512(fraction), _mm512_slli_epi32(exponent, 23)))};
}

#include "kernels/codes/planes.h"

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
