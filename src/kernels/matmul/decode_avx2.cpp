#include "kernels/matmul/formats_avx2.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
namespace {

/// scale * (code - kOffset) - min of 16 codes; without min: only the product.
template <class Format>
void decode_16(__m128i codes, __m256 scale, const __m256* min, float* out) noexcept {
  for (int i = 0; i < 2; ++i, codes = _mm_srli_si128(codes, 8)) {
    __m256i q = Format::kSigned ? _mm256_cvtepi8_epi32(codes) : _mm256_cvtepu8_epi32(codes);
    if constexpr (Format::kOffset != 0) q = _mm256_sub_epi32(q, _mm256_set1_epi32(Format::kOffset));
    __m256 value = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(q));
    if (min != nullptr) value = _mm256_sub_ps(value, *min);
    _mm256_storeu_ps(out + 8 * i, value);
  }
}

__m128i group(__m256i pair, int which) noexcept {
  return which == 0 ? _mm256_castsi256_si128(pair) : _mm256_extracti128_si256(pair, 1);
}

__m256 to_all(__m256 lanes, int lane) noexcept { return _mm256_permutevar8x32_ps(lanes, _mm256_set1_epi32(lane)); }

template <class Format>
void decode_four_blocks(const std::byte* data, float* out) noexcept {
  const Format w = Format::load(data);
  for (int g = 0; g < 4; ++g) {
    const int j = g / 2;
    const __m256 d = to_all(w.d[j], g % 2 * 4);
    __m256 minus_m = _mm256_setzero_ps();
    if constexpr (Format::kHasMin) minus_m = _mm256_sub_ps(_mm256_setzero_ps(), to_all(w.m[j], g % 2 * 4));
    const __m256* min = Format::kHasMin ? &minus_m : nullptr;
    decode_16<Format>(group(w.codes.low[j], g % 2), d, min, out + 32 * g);
    decode_16<Format>(group(w.codes.high[j], g % 2), d, min, out + 32 * g + 16);
  }
}

template <class Format>
void decode_blocks(const std::byte* data, std::size_t count, float* out) noexcept {
  constexpr std::size_t kBytes = 4 * sizeof(typename Format::Block);
  for (; count >= 128; count -= 128, data += kBytes, out += 128) decode_four_blocks<Format>(data, out);
  if (count != 0) {
    std::byte last[kBytes] = {};
    float decoded[128];
    std::memcpy(last, data, count * kBytes / 128);
    decode_four_blocks<Format>(last, decoded);
    std::memcpy(out, decoded, count * sizeof(float));
  }
}

template <class Format>
void decode_super(const std::byte* data, std::size_t count, float* out) noexcept {
  for (; count != 0; count -= 256, data += sizeof(typename Format::Block), out += 256) {
    const Format w = Format::load(data);
    for (int g = 0; g < 8; ++g) {
      const Codes codes = w.codes(g / 4);
      const __m128i low = group(codes.low[g % 4 / 2], g % 2), high = group(codes.high[g % 4 / 2], g % 2);
      if constexpr (Format::kScales == 8) {
        const __m256 scale = to_all(w.scale, g), min = to_all(w.min, g);
        const __m256* m = Format::kHasMin ? &min : nullptr;
        decode_16<Format>(low, scale, m, out + 32 * g);
        decode_16<Format>(high, scale, m, out + 32 * g + 16);
      } else {
        const int h = g / 4, s = g % 4 * 2;
        const __m256 min[2] = {to_all(w.min[h], s), to_all(w.min[h], s + 1)};
        decode_16<Format>(low, to_all(w.scale[h], s), Format::kHasMin ? &min[0] : nullptr, out + 32 * g);
        decode_16<Format>(high, to_all(w.scale[h], s + 1), Format::kHasMin ? &min[1] : nullptr, out + 32 * g + 16);
      }
    }
  }
}

template <class Weights>
void decode_halves(const std::byte* data, std::size_t count, float* out) noexcept {
  for (; count >= 8; count -= 8, data += 16, out += 8) _mm256_storeu_ps(out, Weights::load(data));
  if (count != 0) {
    std::byte last[16] = {};
    float decoded[8];
    std::memcpy(last, data, 2 * count);
    _mm256_storeu_ps(decoded, Weights::load(last));
    std::memcpy(out, decoded, count * sizeof(float));
  }
}

}  // namespace

void decode_f16(const std::byte* data, std::size_t n, float* out) noexcept { decode_halves<F16Weights>(data, n, out); }
void decode_bf16(const std::byte* data, std::size_t n, float* out) noexcept {
  decode_halves<Bf16Weights>(data, n, out);
}
void decode_q4_0(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q4_0>(data, n, out); }
void decode_q4_1(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q4_1>(data, n, out); }
void decode_q5_0(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q5_0>(data, n, out); }
void decode_q5_1(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q5_1>(data, n, out); }
void decode_q8_0(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<Q8_0>(data, n, out); }
void decode_iq4_nl(const std::byte* data, std::size_t n, float* out) noexcept { decode_blocks<IQ4_NL>(data, n, out); }
void decode_q2_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q2_K>(data, n, out); }
void decode_q3_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q3_K>(data, n, out); }
void decode_q4_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q4_K>(data, n, out); }
void decode_q5_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q5_K>(data, n, out); }
void decode_q6_k(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<Q6_K>(data, n, out); }
void decode_iq4_xs(const std::byte* data, std::size_t n, float* out) noexcept { decode_super<IQ4_XS>(data, n, out); }

}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
