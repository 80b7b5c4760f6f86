#include "kernels/matmul/activations.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
#include <algorithm>
#include <cstring>

KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
namespace {

/// max |x| over 32 values in every lane, by the bits: a NaN is larger than everything.
__m512 max_magnitude(__m512 a, __m512 b) noexcept {
  const __m512i mask = _mm512_set1_epi32(0x7fffffff);
  const __m512i both =
      _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a), mask), _mm512_and_si512(_mm512_castps_si512(b), mask));
  return _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(_mm512_reduce_max_epu32(both))));
}

/// Codes of 16 values; what is out of range or not a number becomes -128.
__m128i codes(__m512 x, __m512 inverse) noexcept {
  return _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)));
}

void quantize_block(const float* x, ActivationBlock& out) noexcept {
  for (std::size_t g = 0; g < 8; ++g) {
    const __m512 low = _mm512_loadu_ps(x + 32 * g), high = _mm512_loadu_ps(x + 32 * g + 16);
    const __m512 max = max_magnitude(low, high);
    const __m512 limit = _mm512_set1_ps(127.0f);
    const __mmask16 positive = _mm512_cmp_ps_mask(max, _mm512_setzero_ps(), _CMP_GT_OQ);
    const __m512 inverse = _mm512_maskz_div_ps(positive, limit, max);
    const __m128 scale = _mm512_castps512_ps128(_mm512_div_ps(max, limit));
    std::int8_t* q = out.q[g / 4] + g % 4 * 16;
    _mm_store_si128(reinterpret_cast<__m128i*>(q), codes(low, inverse));
    _mm_store_si128(reinterpret_cast<__m128i*>(q + 64), codes(high, inverse));
    _mm_store_ps(out.lane_scale[g / 4] + g % 4 * 4, scale);
    _mm_store_ss(out.scale + g, scale);
  }
  const __m512i ones = _mm512_set1_epi8(1), zero = _mm512_setzero_si512();
  const __m512i even = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 0, 0, 0, 0, 0, 0, 0, 0);
  __m256i halves[2];  // sums of 16 codes, 8 for each half of the block
  for (std::size_t h = 0; h < 2; ++h) {
    const __m512i low = _mm512_dpbusd_epi32(zero, ones, _mm512_load_si512(out.q[h]));
    const __m512i high = _mm512_dpbusd_epi32(zero, ones, _mm512_load_si512(out.q[h] + 64));
    _mm512_store_si512(out.negative_sum[h], _mm512_sub_epi32(zero, _mm512_add_epi32(low, high)));
    const auto groups = [](__m512i lanes) {  // sum of each group's 4 lanes in dwords 0-3
      const __m512i pairs = _mm512_add_epi32(lanes, _mm512_shuffle_epi32(lanes, _MM_PERM_CDAB));
      const __m512i sums = _mm512_add_epi32(pairs, _mm512_shuffle_epi32(pairs, _MM_PERM_BADC));
      return _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), sums);
    };
    halves[h] = _mm512_castsi512_si256(_mm512_permutex2var_epi32(groups(low), even, groups(high)));
  }
  const __m512i sums = _mm512_inserti64x4(_mm512_castsi256_si512(halves[0]), halves[1], 1);
  const __m512 scales = _mm512_permutexvar_ps(_mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7),
                                              _mm512_castps256_ps512(_mm256_load_ps(out.scale)));
  _mm512_store_ps(out.half_sum, _mm512_mul_ps(scales, _mm512_cvtepi32_ps(sums)));
  const __m512i pairs = _mm512_add_epi32(sums, _mm512_shuffle_epi32(sums, _MM_PERM_CDAB));
  const __m512i whole = _mm512_maskz_compress_epi32(0x5555, _mm512_sub_epi32(zero, pairs));
  const __m256i groups = _mm512_castsi512_si256(whole);
  _mm256_store_si256(reinterpret_cast<__m256i*>(out.negative_group_sum), groups);
  _mm256_store_ps(out.minus_sum, _mm256_mul_ps(_mm256_load_ps(out.scale), _mm256_cvtepi32_ps(groups)));
}

}  // namespace

void quantize_activations(const float* x, std::size_t cols, ActivationBlock* blocks, std::size_t stride) noexcept {
  for (; cols >= ActivationBlock::kValues; cols -= ActivationBlock::kValues, x += ActivationBlock::kValues) {
    quantize_block(x, *blocks);
    blocks += stride;
  }
  if (cols != 0) {
    float last[ActivationBlock::kValues] = {};
    std::memcpy(last, x, cols * sizeof(float));
    quantize_block(last, *blocks);
  }
}

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
