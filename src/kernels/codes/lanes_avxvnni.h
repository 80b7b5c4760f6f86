#pragma once
#include "kernels/codes/lanes_avx2.h"

#ifdef KVANT_X86
/// The lanes of AVX2, with a dot product of bytes as AVX-512 has one. What each of these means:
/// kernels/codes/lanes_avx512.h.
namespace kvant::kernels::avxvnni {

using namespace avx2;  // NOLINT(google-build-using-namespace)

template <int bits>
using Bytes = Words;
template <int bits>
using Whole = std::int8_t;
constexpr int kCoarseQuery = 127, kCoarseWeight = 255;
constexpr std::size_t token_vectors(std::size_t) { return 2; }
template <int bits>
constexpr std::size_t kDimVectors = bits <= kCoarseBits ? 2 : 1;

template <int bits>
void score_codes(const CodeScoreArgs& args) noexcept;
template <int bits>
void mix_codes(const CodeMixArgs& args) noexcept;
template <int bits>
void decode_values(const CodeMixArgs& args, std::uint8_t* bytes) noexcept;

}  // namespace kvant::kernels::avxvnni

KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avxvnni {

/// 128 * high + low; coarse ones are low alone, without a sign.
struct WholeWeights {
  alignas(32) std::array<std::int8_t, kPageTokens> high, low;

  template <bool coarse>
  void set(const I32 (&whole)[8]) {
    for (std::size_t i = 0; i < 2; ++i) {
      const __m256i first = _mm256_packus_epi32(whole[4 * i].v, whole[4 * i + 1].v);
      const __m256i second = _mm256_packus_epi32(whole[4 * i + 2].v, whole[4 * i + 3].v);
      if constexpr (coarse) {
        store_bytes(low.data() + 32 * i, first, second);
      } else {
        const __m256i mask = _mm256_set1_epi16(127);
        store_bytes(low.data() + 32 * i, _mm256_and_si256(first, mask), _mm256_and_si256(second, mask));
        store_bytes(high.data() + 32 * i, _mm256_srli_epi16(first, 7), _mm256_srli_epi16(second, 7));
      }
    }
  }

 private:
  /// 16-bit numbers below 256 that _mm256_packus_epi32 made of dwords, as bytes in their order.
  static void store_bytes(std::int8_t* to, __m256i first, __m256i second) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    store_words(to, _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order));
  }
};

}  // namespace kvant::kernels::avxvnni
KVANT_TARGET_END

KVANT_TARGET_AVXVNNI_BEGIN
namespace kvant::kernels::avxvnni {

template <int bits>
[[gnu::always_inline]] inline Words to_bytes(Words words) {
  return words;
}
[[gnu::always_inline]] inline Words add_products(Words sums, __m256i without_sign, __m256i with_sign) {
  sums = _mm256_dpbusd_avx_epi32(sums, without_sign, with_sign);
  asm("" : "+x"(sums));  // keeps sums in place: g++ would move and spill them
  return sums;
}
#include "kernels/codes/dots.h"

}  // namespace kvant::kernels::avxvnni
KVANT_TARGET_END
#endif
