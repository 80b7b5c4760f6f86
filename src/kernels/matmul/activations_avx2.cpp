#include <cstring>

#include "kernels/matmul/activations.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
namespace {

/// max |x| over 32 values, by the bits: a NaN is larger than everything.
float max_magnitude(const float* x) noexcept {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  for (int i = 0; i < 4; ++i) {
    const __m256i v = _mm256_castps_si256(_mm256_loadu_ps(x + 8 * i));
    most = _mm256_max_epu32(most, _mm256_and_si256(v, mask));
  }
  __m128i four = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(1, 0, 3, 2)));
  four = _mm_max_epu32(four, _mm_shuffle_epi32(four, _MM_SHUFFLE(2, 3, 0, 1)));
  return _mm_cvtss_f32(_mm_castsi128_ps(four));
}

/// Codes of 16 values; what is out of range or not a number becomes -128.
__m128i codes(const float* x, __m256 inverse) noexcept {
  const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), inverse));
  const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), inverse));
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), _MM_SHUFFLE(3, 1, 2, 0));
  return _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/// Sums of 4 codes each.
__m128i lane_sums(__m128i q) noexcept {
  return _mm_madd_epi16(_mm_maddubs_epi16(_mm_set1_epi8(1), q), _mm_set1_epi16(1));
}

int sum(__m128i lanes) noexcept {
  const __m128i two = _mm_add_epi32(lanes, _mm_shuffle_epi32(lanes, _MM_SHUFFLE(1, 0, 3, 2)));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, _MM_SHUFFLE(2, 3, 0, 1))));
}

void quantize_block(const float* x, ActivationBlock& out) noexcept {
  for (std::size_t g = 0; g < 8; ++g) {
    const std::size_t half = g / 4, at = g % 4;
    const float* values = x + 32 * g;
    const float max = max_magnitude(values);
    const float scale = max / 127.0f;
    const __m256 inverse = _mm256_set1_ps(max > 0 ? 127.0f / max : 0.0f);
    const __m128i low = codes(values, inverse), high = codes(values + 16, inverse);
    auto* q = reinterpret_cast<__m128i*>(out.q[half]);
    _mm_store_si128(q + at, low);
    _mm_store_si128(q + 4 + at, high);
    const __m128i low_lanes = lane_sums(low), high_lanes = lane_sums(high);
    _mm_store_si128(reinterpret_cast<__m128i*>(out.negative_sum[half]) + at,
                    _mm_sub_epi32(_mm_setzero_si128(), _mm_add_epi32(low_lanes, high_lanes)));
    _mm_store_ps(out.lane_scale[half] + 4 * at, _mm_set1_ps(scale));
    const int low_sum = sum(low_lanes), high_sum = sum(high_lanes);
    out.scale[g] = scale;
    out.negative_group_sum[g] = -(low_sum + high_sum);
    out.minus_sum[g] = scale * static_cast<float>(out.negative_group_sum[g]);
    out.half_sum[2 * g] = scale * static_cast<float>(low_sum);
    out.half_sum[2 * g + 1] = scale * static_cast<float>(high_sum);
  }
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

}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
