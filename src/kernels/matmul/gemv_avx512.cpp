#include "kernels/matmul/formats_avx512.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_X86
#include <algorithm>
#include <bit>

KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
namespace {

constexpr std::size_t kPrefetchBytes = 4096;  // far enough for the memory's latency, near enough to stay in L1 and L2

/// Rows of x that share an unpacked weight block; more would spill their sums.
constexpr std::size_t kGroupRows = 4;

inline __m512i dot(__m512i sum, __m512i codes, const std::int8_t* q) noexcept {
  return _mm512_dpbusd_epi32(sum, codes, _mm512_load_si512(q));
}

/// Minus kOffset times each lane's codes of x: where its products start.
template <int kOffset>
__m512i start(const ActivationBlock& x, std::size_t half) noexcept {
  if constexpr (kOffset == 0) return _mm512_setzero_si512();
  return _mm512_slli_epi32(_mm512_load_si512(x.negative_sum[half]), std::countr_zero(unsigned{kOffset}));
}

/// Both parts of a half: 4 lanes for each of its four groups.
template <int kOffset>
__m512 products(const Codes& w, const ActivationBlock& x, std::size_t half) noexcept {
  const __m512i low = dot(start<kOffset>(x, half), w.low, x.q[half]);
  return _mm512_cvtepi32_ps(dot(low, w.high, x.q[half] + 64));
}

/// Four 32-value blocks.
template <class Format>
struct Blocks {
  static constexpr std::size_t kValues = 128;
  static constexpr std::size_t kBytes = 4 * sizeof(typename Format::Block);
  Format w;
  static Blocks load(const std::byte* p) noexcept { return {Format::load(p)}; }
  __m512 add(__m512 sum, const ActivationBlock* blocks, std::size_t step) const noexcept {
    const ActivationBlock& x = blocks[step / 2];
    const std::size_t half = step % 2;
    const __m512 scale = _mm512_load_ps(x.lane_scale[half]);
    if constexpr (Format::kHasMin) {
      const __m512 minus_x = _mm512_cvtepi32_ps(_mm512_load_si512(x.negative_sum[half]));
      sum = _mm512_fnmadd_ps(w.m, _mm512_mul_ps(minus_x, scale), sum);
    }
    return _mm512_fmadd_ps(products<Format::kOffset>(w.codes, x, half), _mm512_mul_ps(w.d, scale), sum);
  }
};

/// A superblock with a scale for each 32 values.
template <class Format>
struct Super8 {
  static constexpr std::size_t kValues = 256;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  Format w;
  static Super8 load(const std::byte* p) noexcept { return {Format::load(p)}; }
  __m512 add(__m512 sum, const ActivationBlock* blocks, std::size_t step) const noexcept {
    const ActivationBlock& x = blocks[step];
    // One register: scales of x by scales of w in lanes 0-7, sums of x by mins of w in lanes 8-15.
    const __m512 scale = _mm512_mul_ps(w.scale, _mm512_load_ps(x.scale));
    if constexpr (Format::kHasMin) sum = _mm512_mask_add_ps(sum, 0xff00, sum, scale);
    for (int h = 0; h < 2; ++h) {
      const __m512i index = by_group(4 * h, 4 * h + 1, 4 * h + 2, 4 * h + 3);
      sum = _mm512_fmadd_ps(products<Format::kOffset>(w.codes[h], x, static_cast<std::size_t>(h)),
                            _mm512_permutexvar_ps(index, scale), sum);
    }
    return sum;
  }
};

/// A superblock with a scale for each 16 values.
template <class Format>
struct Super16 {
  static constexpr std::size_t kValues = 256;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  Format w;
  __m512 min;  // what each 16 values of x are multiplied by and subtracted
  static Super16 load(const std::byte* p) noexcept {
    Super16 s{Format::load(p), {}};
    if constexpr (Format::kHasMin) {
      s.min = s.w.min;
    } else {
      s.min = _mm512_mul_ps(s.w.scale, _mm512_set1_ps(Format::kOffset));
    }
    return s;
  }
  __m512 add(__m512 sum, const ActivationBlock* blocks, std::size_t step) const noexcept {
    const ActivationBlock& x = blocks[step];
    const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512 scale = _mm512_mul_ps(w.scale, _mm512_permutexvar_ps(pairs, _mm512_load_ps(x.scale)));
    sum = _mm512_fnmadd_ps(min, _mm512_load_ps(x.half_sum), sum);
    for (int h = 0; h < 2; ++h) {
      const __m512i low = dot(_mm512_setzero_si512(), w.codes[h].low, x.q[h]);
      const __m512i high = dot(_mm512_setzero_si512(), w.codes[h].high, x.q[h] + 64);
      const int g = 8 * h;
      sum =
          _mm512_fmadd_ps(_mm512_cvtepi32_ps(low), _mm512_permutexvar_ps(by_group(g, g + 2, g + 4, g + 6), scale), sum);
      sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(high),
                            _mm512_permutexvar_ps(by_group(g + 1, g + 3, g + 5, g + 7), scale), sum);
    }
    return sum;
  }
};

/// One row of weights by kRows rows of x, `stride` blocks apart.
template <class Step, std::size_t kRows>
void row_products(const std::byte* weights, std::size_t cols, const ActivationBlock* x, std::size_t stride, float* y,
                  std::size_t y_stride) noexcept {
  __m512 sums[kRows];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const auto add = [&](const std::byte* p, std::size_t step) {
    const Step w = Step::load(p);
    for (std::size_t r = 0; r < kRows; ++r) sums[r] = w.add(sums[r], x + r * stride, step);
  };
  const std::size_t steps = cols / Step::kValues;
  for (std::size_t s = 0; s < steps; ++s, weights += Step::kBytes) {
    for (std::size_t line = 0; line < Step::kBytes; line += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(weights + kPrefetchBytes + line), _MM_HINT_T0);
    }
    add(weights, s);
  }
  if (const std::size_t rest = cols % Step::kValues; rest != 0) {
    alignas(64) std::byte last[Step::kBytes] = {};
    std::memcpy(last, weights, rest * Step::kBytes / Step::kValues);
    add(last, steps);
  }
  for (std::size_t r = 0; r < kRows; ++r) y[r * y_stride] = _mm512_reduce_add_ps(sums[r]);
}

template <class Step>
void gemv(const GemvArgs& a) noexcept {
  const std::size_t row_bytes = a.cols * Step::kBytes / Step::kValues;
  const std::size_t stride = activation_blocks(a.cols);
  for (std::size_t o = 0; o < a.rows; ++o) {
    const std::byte* w = a.weights + o * row_bytes;
    std::size_t r = 0;
    for (; r + kGroupRows <= a.x.rows; r += kGroupRows) {
      row_products<Step, kGroupRows>(w, a.cols, a.blocks + r * stride, stride, a.y + r * a.y_stride + o, a.y_stride);
    }
    for (; r < a.x.rows; ++r) {
      row_products<Step, 1>(w, a.cols, a.blocks + r * stride, stride, a.y + r * a.y_stride + o, a.y_stride);
    }
  }
}

/// Four sums of 16 lanes each, so that four products are under way at once.
template <class Weights>
float float_product(const std::byte* w, const float* x, std::size_t cols) noexcept {
  __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  std::size_t i = 0;
  for (; i + 64 <= cols; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(w + i * Weights::kBytes + kPrefetchBytes), _MM_HINT_T0);
    if constexpr (Weights::kBytes > 1) {
      _mm_prefetch(reinterpret_cast<const char*>(w + i * Weights::kBytes + kPrefetchBytes + 64), _MM_HINT_T0);
    }
    for (std::size_t k = 0; k < 4; ++k) {
      const std::size_t at = i + 16 * k;
      sums[k] = _mm512_fmadd_ps(Weights::load(w + at * Weights::kBytes, 0xffff), _mm512_loadu_ps(x + at), sums[k]);
    }
  }
  for (; i < cols; i += 16) {
    const auto lanes = static_cast<__mmask16>((1u << std::min<std::size_t>(16, cols - i)) - 1);
    sums[0] =
        _mm512_fmadd_ps(Weights::load(w + i * Weights::kBytes, lanes), _mm512_maskz_loadu_ps(lanes, x + i), sums[0]);
  }
  return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

template <class Weights>
void float_gemv(const GemvArgs& a) noexcept {
  for (std::size_t o = 0; o < a.rows; ++o) {
    const std::byte* w = a.weights + o * a.cols * Weights::kBytes;
    for (std::size_t r = 0; r < a.x.rows; ++r)
      a.y[r * a.y_stride + o] = float_product<Weights>(w, a.x.row(r).data(), a.cols);
  }
}

}  // namespace

void gemv_f32(const GemvArgs& a) noexcept { float_gemv<F32Weights>(a); }
void gemv_f16(const GemvArgs& a) noexcept { float_gemv<F16Weights>(a); }
void gemv_bf16(const GemvArgs& a) noexcept { float_gemv<Bf16Weights>(a); }
void gemv_q8_0(const GemvArgs& a) noexcept { gemv<Blocks<Q8_0>>(a); }
void gemv_q4_0(const GemvArgs& a) noexcept { gemv<Blocks<Q4_0>>(a); }
void gemv_q4_1(const GemvArgs& a) noexcept { gemv<Blocks<Q4_1>>(a); }
void gemv_q5_0(const GemvArgs& a) noexcept { gemv<Blocks<Q5_0>>(a); }
void gemv_q5_1(const GemvArgs& a) noexcept { gemv<Blocks<Q5_1>>(a); }
void gemv_iq4_nl(const GemvArgs& a) noexcept { gemv<Blocks<IQ4_NL>>(a); }
void gemv_q2_k(const GemvArgs& a) noexcept { gemv<Super16<Q2_K>>(a); }
void gemv_q3_k(const GemvArgs& a) noexcept { gemv<Super16<Q3_K>>(a); }
void gemv_q4_k(const GemvArgs& a) noexcept { gemv<Super8<Q4_K>>(a); }
void gemv_q5_k(const GemvArgs& a) noexcept { gemv<Super8<Q5_K>>(a); }
void gemv_q6_k(const GemvArgs& a) noexcept { gemv<Super16<Q6_K>>(a); }
void gemv_iq4_xs(const GemvArgs& a) noexcept { gemv<Super8<IQ4_XS>>(a); }

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
