#pragma once
#include <utility>

#include "kernels/codes/common.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
/// What score and mix share on this tier: vectors of 16 lanes, a lane being four codes of one word.
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {

template <int bits>
void score_codes(const CodeScoreArgs& args) noexcept;
template <int bits>
void mix_codes(const CodeMixArgs& args) noexcept;

constexpr std::size_t kCodeLanes = 16;
/// Rows of a register tile at most.
constexpr std::size_t kCodeRows = 6;

inline __m512i load_words(const void* p) { return _mm512_loadu_si512(p); }

/// Bits of `low` where the mask has ones in a byte, of `high` elsewhere.
template <int mask>
__m512i select_bits(__m512i low, __m512i high) {
  return _mm512_ternarylogic_epi32(_mm512_set1_epi8(static_cast<char>(mask)), low, high, 0xca);
}

/// The codes of four consecutive tokens or dims in the bytes of each lane, from fields.get<width, first_bit>(), which
/// gives a plane's bits at their place in the code, with anything around them. Above the code's bits a byte holds
/// anything too, up to 6 bits.
template <int bits, class Fields>
[[gnu::always_inline]] inline __m512i join_planes(const Fields& fields) {
  if constexpr (bits == 3) {
    return select_bits<0x03>(fields.template get<2, 0>(), fields.template get<1, 2>());
  } else if constexpr (bits == 5) {
    return select_bits<0x0f>(fields.template get<4, 0>(), fields.template get<1, 4>());
  } else if constexpr (bits == 6) {
    return select_bits<0x0f>(fields.template get<4, 0>(), fields.template get<2, 4>());
  } else if constexpr (bits == 7) {
    const __m512i high = select_bits<0x3f>(fields.template get<2, 4>(), fields.template get<1, 6>());
    return _mm512_and_si512(select_bits<0x0f>(fields.template get<4, 0>(), high), _mm512_set1_epi8(0x7f));
  } else if constexpr (bits == 8) {
    return select_bits<0x0f>(fields.template get<4, 0>(), fields.template get<4, 4>());
  } else {
    return fields.template get<bits, 0>();
  }
}

/// Codes to bytes. The permutation ignores the upper 2 bits of a byte, and the table repeats itself.
template <int bits>
[[gnu::always_inline]] inline __m512i bytes_of(__m512i codes, __m512i table) {
  return bits > 6 ? codes : _mm512_permutexvar_epi8(codes, table);
}

/// Adds to each lane the dot product of its four bytes with four signed bytes at `four`.
[[gnu::always_inline]] inline __m512i dot_four(__m512i sums, __m512i bytes, const std::int8_t* four) {
  std::int32_t word = 0;
  __builtin_memcpy(&word, four, sizeof word);
  return _mm512_dpbusd_epi32(sums, bytes, _mm512_set1_epi32(word));
}

/// The vector's words, turned right.
template <int count>
__m512i turn_right(__m512i words) {
  return count == 0 ? words : _mm512_ror_epi32(words, count);
}

/// Scales of 16 tokens.
inline __m512 load_scales(const CodedPages& pages, const std::byte* page, std::size_t group, std::size_t token) {
  const std::byte* p = page + pages.layout.scale_offset(group, token);
  if (pages.layout.scales() == codec::ScaleFormat::f16) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  const __m512i stored = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512 octave = _mm512_castps256_ps512(_mm256_loadu_ps(kOctave.data()));
  const __m512i fraction =
      _mm512_castps_si512(_mm512_permutexvar_ps(_mm512_and_si512(stored, _mm512_set1_epi32(7)), octave));
  const __m512i exponent = _mm512_sub_epi32(_mm512_srli_epi32(stored, 3), _mm512_set1_epi32(16));
  return _mm512_castsi512_ps(
      _mm512_maskz_add_epi32(_mm512_test_epi32_mask(stored, stored), fraction, _mm512_slli_epi32(exponent, 23)));
}

/// What the sums of a table's bytes with whole numbers that sum to `whole` start from, so that after_sums of them are
/// the sums of the levels.
template <int bits>
__m512i before_sums(const CodeTable& table, std::int32_t whole) {
  return bits > 6 ? _mm512_setzero_si512() : _mm512_set1_epi32(-table.offset * whole);
}
template <int bits>
__m512 after_sums(__m512i sums, const CodeTable& table, std::int32_t whole) {
  if constexpr (bits <= 6) return _mm512_cvtepi32_ps(sums);
  return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_add_epi32(sums, sums), _mm512_set1_epi32(table.offset * whole)));
}

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
