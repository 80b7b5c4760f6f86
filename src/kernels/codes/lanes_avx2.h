#pragma once
#include <type_traits>
#include <utility>

#include "kernels/codes/common.h"
#include "kernels/simd/f32_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {

// What each of these means: kernels/codes/lanes_avx512.h.

using Words = __m256i;
/// Bytes as they are: products with smaller whole numbers (kCoarseQuery, kCoarseWeight) fit the 16 bits of vpmaddubsw,
/// 2 * 255 * 64 and 2 * 127 * 128.
struct Narrow {
  __m256i bytes;
};
/// Bytes 0 and 2, and bytes 1 and 3, as 16-bit numbers, to multiply with any whole numbers, which lie in a lane in this
/// order too.
struct Wide {
  __m256i even, odd;
};
template <int bits>
constexpr bool kNarrow = bits <= kCoarseBits;
template <int bits>
using Bytes = std::conditional_t<kNarrow<bits>, Narrow, Wide>;
template <int bits>
using Whole = std::conditional_t<kNarrow<bits>, std::int8_t, std::int16_t>;

constexpr int kCoarseQuery = 64, kCoarseWeight = 127;
constexpr std::int32_t kByteBias = 0;
constexpr std::size_t kCodeRows = 6;
constexpr std::size_t token_vectors(std::size_t rows) { return rows > 3 ? 1 : 2; }
template <int bits>
constexpr std::size_t kDimVectors = 1;

inline Words load_words(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
inline void store_words(void* p, Words a) { _mm256_storeu_si256(static_cast<__m256i*>(p), a); }
inline Words set_words(std::int32_t x) { return _mm256_set1_epi32(x); }
inline Words add(Words a, Words b) { return _mm256_add_epi32(a, b); }
inline F32 words_to_f32(Words a) { return {_mm256_cvtepi32_ps(a)}; }

template <int from, int to>
Words move_bits(Words words) {
  if constexpr (from == to) return words;
  return from > to ? _mm256_srli_epi32(words, from - to) : _mm256_slli_epi32(words, to - from);
}

template <int mask>
Words keep_bits(Words a) {
  return _mm256_and_si256(a, _mm256_set1_epi8(static_cast<char>(mask)));
}
template <int mask>
Words select_bits(Words low, Words high) {
  return _mm256_or_si256(keep_bits<mask>(low), _mm256_andnot_si256(_mm256_set1_epi8(static_cast<char>(mask)), high));
}

/// Up to 4 bits the table is asked with nibbles; above, bytes of several tables are chosen by the highest bits.
template <int bits>
constexpr Places places(Places from) {
  return bits <= 4 ? places_in_nibbles<bits>(from) : Places{0, 12 - bits};
}

struct Table {
  __m256i parts[4];

  explicit Table(const CodeTable& table) {
    for (std::size_t i = 0; i < 4; ++i) {
      parts[i] = _mm256_broadcastsi128_si256(load_16_bytes(table.bytes.data() + 16 * i));
    }
  }
  template <int bits, Places at>
  [[gnu::always_inline]] Words look_up(Words low, Words high) const {
    if constexpr (bits <= 4) {
      const __m256i codes = _mm256_broadcastsi128_si256(load_16_bytes(kCodesAt<bits, at>.data()));
      const Words nibbles = bits == 3
                                ? _mm256_or_si256(keep_bits<0x03 << at.low>(low), keep_bits<0x01 << at.high>(high))
                                : keep_bits<0x0f>(low);
      return _mm256_shuffle_epi8(_mm256_shuffle_epi8(parts[0], codes), nibbles);
    }
    const Words nibbles = keep_bits<0x0f>(low);
    if constexpr (bits == 5) return one_of_two<0>(nibbles, high);
    const Words middle = add(high, high);
    return _mm256_blendv_epi8(one_of_two<0>(nibbles, middle), one_of_two<2>(nibbles, middle), high);
  }

 private:
  /// Of two parts, by the highest bit of each byte of `which`.
  template <int first>
  [[gnu::always_inline]] Words one_of_two(Words nibbles, Words which) const {
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(parts[first], nibbles),
                              _mm256_shuffle_epi8(parts[first + 1], nibbles), which);
  }
};

template <int bits>
Table value_table(const CodeTable& table) {
  Table t(table);
  if constexpr (kNarrow<bits>) t.parts[0] = _mm256_xor_si256(t.parts[0], _mm256_set1_epi8(static_cast<char>(0x80)));
  return t;
}
template <int bits>
constexpr std::int32_t kValueBias = kNarrow<bits> ? 128 : kByteBias;

template <int bits>
[[gnu::always_inline]] inline Bytes<bits> to_bytes(Words words) {
  if constexpr (kNarrow<bits>) {
    return {words};
  } else {
    return {_mm256_and_si256(words, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(words, 8)};
  }
}
/// Adds to each lane the products of its bytes without a sign with those of the other, which have one.
[[gnu::always_inline]] inline Words add_products(Words sums, __m256i without_sign, __m256i with_sign) {
  const __m256i pairs = _mm256_maddubs_epi16(without_sign, with_sign);
  sums = add(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  asm("" : "+x"(sums));  // g++ would keep all products, to add them later in another order
  return sums;
}
[[gnu::always_inline]] inline __m256i broadcast_four(const std::int8_t* four) {
  std::int32_t word = 0;
  __builtin_memcpy(&word, four, sizeof word);
  return _mm256_set1_epi32(word);
}
[[gnu::always_inline]] inline Words dot(Words sums, Narrow keys, const std::int8_t* four) {
  return add_products(sums, keys.bytes, broadcast_four(four));
}
[[gnu::always_inline]] inline Words dot(Words sums, Wide bytes, const std::int16_t* four) {
  std::int32_t pairs[2];
  __builtin_memcpy(pairs, four, sizeof pairs);
  sums = add(sums, add(_mm256_madd_epi16(bytes.even, _mm256_set1_epi32(pairs[0])),
                       _mm256_madd_epi16(bytes.odd, _mm256_set1_epi32(pairs[1]))));
  asm("" : "+x"(sums));
  return sums;
}

/// Each four 16-bit numbers in the order 0, 2, 1, 3.
inline __m256i even_first(__m256i a) { return _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(a, 0xd8), 0xd8); }

template <std::size_t rows, int bits>
struct QueryRows {
  alignas(32) std::int16_t values[rows * kMaxCodedDims];
  std::size_t dims;

  QueryRows(const std::int8_t* q, std::size_t dims_of) : dims(dims_of) {
    for (std::size_t i = 0; i < rows * dims; i += 16) {
      store_words(values + i, even_first(_mm256_cvtepi8_epi16(load_16_bytes(q + i))));
    }
  }
  [[gnu::always_inline]] const std::int16_t* four(std::size_t row, std::size_t dim) const {
    return values + row * dims + dim;
  }
};
template <std::size_t rows, int bits>
requires kNarrow<bits>
struct QueryRows<rows, bits> : ByteQueries {
};

/// Coarse ones are bytes without a sign.
struct WholeWeights {
  alignas(32) std::array<std::int16_t, kPageTokens> values;
  alignas(32) std::array<std::int8_t, kPageTokens> coarse_values;

  template <bool coarse>
  void set(const I32 (&whole)[8]) {
    if constexpr (coarse) return set_coarse(whole);
    for (std::size_t i = 0; i < 4; ++i) {
      const __m256i packed = _mm256_packs_epi32(whole[2 * i].v, whole[2 * i + 1].v);
      store_words(values.data() + 16 * i, even_first(_mm256_permute4x64_epi64(packed, 0xd8)));
    }
  }

 private:
  void set_coarse(const I32 (&whole)[8]) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (std::size_t i = 0; i < 2; ++i) {
      const __m256i first = _mm256_packs_epi32(whole[4 * i].v, whole[4 * i + 1].v);
      const __m256i second = _mm256_packs_epi32(whole[4 * i + 2].v, whole[4 * i + 3].v);
      store_words(coarse_values.data() + 32 * i,
                  _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order));
    }
  }
};

template <bool coarse>
struct WeightedSums {
  Words sums;

  [[gnu::always_inline]] void start(Words from) { sums = from; }
  [[gnu::always_inline]] void add_four(Wide bytes, const WholeWeights& weights, std::size_t token) {
    sums = dot(sums, bytes, weights.values.data() + token);
  }
  /// These bytes have a sign: they come from value_table.
  [[gnu::always_inline]] void add_four(Narrow values, const WholeWeights& weights, std::size_t token) {
    sums = add_products(sums, broadcast_four(weights.coarse_values.data() + token), values.bytes);
  }
  [[gnu::always_inline]] Words total() const { return sums; }
};

inline F32 load_log_scales(const std::byte* p) {
  const __m256i stored = _mm256_cvtepu8_epi32(load_8_bytes(p));
  const __m256 fraction = _mm256_permutevar8x32_ps(_mm256_loadu_ps(kOctave.data()), stored);
  const __m256i exponent = _mm256_sub_epi32(_mm256_srli_epi32(stored, 3), _mm256_set1_epi32(16));
  const __m256i scale = _mm256_add_epi32(_mm256_castps_si256(fraction), _mm256_slli_epi32(exponent, 23));
  return {_mm256_castsi256_ps(_mm256_andnot_si256(_mm256_cmpeq_epi32(stored, _mm256_setzero_si256()), scale))};
}

#include "kernels/codes/planes.h"

}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
