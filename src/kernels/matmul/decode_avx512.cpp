#include "kernels/matmul/formats_avx512.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
namespace {

/// scale * (code - kOffset) of 16 codes.
template <int kOffset>
__m512 values(__m128i codes, __m512 scale) noexcept {
  __m512i q = _mm512_cvtepu8_epi32(codes);
  if constexpr (kOffset != 0) q = _mm512_sub_epi32(q, _mm512_set1_epi32(kOffset));
  return _mm512_mul_ps(scale, _mm512_cvtepi32_ps(q));
}

template <int kGroup>
__m128i group(__m512i codes) noexcept {
  return _mm512_extracti32x4_epi32(codes, kGroup);
}

__m512 to_all(__m512 lanes, int lane) noexcept { return _mm512_permutexvar_ps(_mm512_set1_epi32(lane), lanes); }

/// Group g of four 32-value blocks: out[32 g, 32 g + 32).
template <class Format, int kGroup>
void decode_group(const Format& w, float* out) noexcept {
  const __m512 d = to_all(w.d, 4 * kGroup);
  __m512 low = values<Format::kOffset>(group<kGroup>(w.codes.low), d);
  __m512 high = values<Format::kOffset>(group<kGroup>(w.codes.high), d);
  if constexpr (Format::kHasMin) {
    const __m512 m = to_all(w.m, 4 * kGroup);
    low = _mm512_add_ps(low, m);
    high = _mm512_add_ps(high, m);
  }
  _mm512_storeu_ps(out + 32 * kGroup, low);
  _mm512_storeu_ps(out + 32 * kGroup + 16, high);
}

template <class Format>
void decode_blocks(const std::byte* data, std::size_t count, float* out) noexcept {
  constexpr std::size_t kBytes = 4 * sizeof(typename Format::Block);
  const auto four = [](const std::byte* p, float* to) {
    const Format w = Format::load(p);
    decode_group<Format, 0>(w, to);
    decode_group<Format, 1>(w, to);
    decode_group<Format, 2>(w, to);
    decode_group<Format, 3>(w, to);
  };
  for (; count >= 128; count -= 128, data += kBytes, out += 128) four(data, out);
  if (count != 0) {
    std::byte last[kBytes] = {};
    float decoded[128];
    std::memcpy(last, data, count * kBytes / 128);
    four(last, decoded);
    std::memcpy(out, decoded, count * sizeof(float));
  }
}

/// Group kGroup of half h of a superblock with 8 scales.
template <class Format, int kGroup>
void decode_super8(const Format& w, int h, float* out) noexcept {
  const int g = 4 * h + kGroup;
  const __m512 scale = to_all(w.scale, g);
  __m512 low = values<Format::kOffset>(group<kGroup>(w.codes[h].low), scale);
  __m512 high = values<Format::kOffset>(group<kGroup>(w.codes[h].high), scale);
  if constexpr (Format::kHasMin) {
    const __m512 min = to_all(w.scale, 8 + g);
    low = _mm512_sub_ps(low, min);
    high = _mm512_sub_ps(high, min);
  }
  _mm512_storeu_ps(out + 32 * g, low);
  _mm512_storeu_ps(out + 32 * g + 16, high);
}

/// The same with 16 scales.
template <class Format, int kGroup>
void decode_super16(const Format& w, int h, float* out) noexcept {
  const int g = 4 * h + kGroup;
  __m512 low = values<Format::kOffset>(group<kGroup>(w.codes[h].low), to_all(w.scale, 2 * g));
  __m512 high = values<Format::kOffset>(group<kGroup>(w.codes[h].high), to_all(w.scale, 2 * g + 1));
  if constexpr (Format::kHasMin) {
    low = _mm512_sub_ps(low, to_all(w.min, 2 * g));
    high = _mm512_sub_ps(high, to_all(w.min, 2 * g + 1));
  }
  _mm512_storeu_ps(out + 32 * g, low);
  _mm512_storeu_ps(out + 32 * g + 16, high);
}

template <class Format>
void decode_super(const std::byte* data, std::size_t count, float* out) noexcept {
  for (; count != 0; count -= 256, data += sizeof(typename Format::Block), out += 256) {
    const Format w = Format::load(data);
    for (int h = 0; h < 2; ++h) {
      if constexpr (Format::kScales == 8) {
        decode_super8<Format, 0>(w, h, out);
        decode_super8<Format, 1>(w, h, out);
        decode_super8<Format, 2>(w, h, out);
        decode_super8<Format, 3>(w, h, out);
      } else {
        decode_super16<Format, 0>(w, h, out);
        decode_super16<Format, 1>(w, h, out);
        decode_super16<Format, 2>(w, h, out);
        decode_super16<Format, 3>(w, h, out);
      }
    }
  }
}

/// Two-byte floats: 16 at a time.
template <class Weights>
void decode_halves(const std::byte* data, std::size_t count, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) _mm512_storeu_ps(out + i, Weights::load(data + 2 * i, 0xffff));
  if (i < count) {
    const auto lanes = static_cast<__mmask16>((1u << (count - i)) - 1);
    _mm512_mask_storeu_ps(out + i, lanes, Weights::load(data + 2 * i, lanes));
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

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
