#include "kernels/matmul/formats_avx512.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_X86
#include <algorithm>
#include <bit>

KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
namespace {

constexpr std::size_t kPrefetchBytes = 3072;  // far enough ahead for the memory's latency
constexpr std::size_t kXRows = 4;             // rows of x that share unpacked weights; more would spill their sums
constexpr std::size_t kStreamXRows = kXRows;  // as many with streams

/// A half of an activation block as the operand of two dot products.
struct Operand {
  __m512i low, high;
};

inline Operand load_operand(const ActivationBlock& x, std::size_t half) noexcept {
  return {_mm512_load_si512(x.q[half]), _mm512_load_si512(x.q[half] + 64)};
}

/// Minus kOffset times the sum of each lane's codes of x: where the lane's products start.
template <int kOffset>
__m512i load_start(const ActivationBlock& x, std::size_t half) noexcept {
  if constexpr (kOffset == 0) return _mm512_setzero_si512();
  return _mm512_slli_epi32(_mm512_load_si512(x.negative_sum[half]), std::countr_zero(unsigned{kOffset}));
}

inline __m512 products(__m512i start, const Codes& w, const Operand& x) noexcept {
  return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(start, w.low, x.low), w.high, x.high));
}

// A step unpacks weights (Step) and activations (Step::X) of equal extent and adds their product to 16 lanes.

/// Four 32-value blocks.
template <class Format>
struct Blocks {
  static constexpr std::size_t kValues = 128;
  static constexpr std::size_t kBytes = 4 * sizeof(typename Format::Block);
  struct X {
    Operand q;
    __m512i start;
    __m512 scale, minus_sum;
  };
  static X load_x(const ActivationBlock* blocks, std::size_t step) noexcept {
    const ActivationBlock& b = blocks[step / 2];
    const std::size_t half = step % 2;
    X x{load_operand(b, half), load_start<Format::kOffset>(b, half), _mm512_load_ps(b.lane_scale[half]), {}};
    if constexpr (Format::kHasMin) {
      x.minus_sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_load_si512(b.negative_sum[half])), x.scale);
    }
    return x;
  }
  Format w;
  static Blocks load(const std::byte* p) noexcept { return {Format::load(p)}; }
  __m512 add(__m512 sum, const X& x) const noexcept {
    if constexpr (Format::kHasMin) sum = _mm512_fnmadd_ps(w.m, x.minus_sum, sum);
    return _mm512_fmadd_ps(products(x.start, w.codes, x.q), _mm512_mul_ps(w.d, x.scale), sum);
  }
};

/// A superblock with a scale for each 32 values.
template <class Format>
struct Super8 {
  static constexpr std::size_t kValues = 256;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  struct X {
    Operand q[2];
    __m512i start[2];
    __m512 scale;  // scales in lanes 0-7, minus sums in lanes 8-15
  };
  static X load_x(const ActivationBlock* blocks, std::size_t step) noexcept {
    const ActivationBlock& b = blocks[step];
    return {{load_operand(b, 0), load_operand(b, 1)},
            {load_start<Format::kOffset>(b, 0), load_start<Format::kOffset>(b, 1)},
            _mm512_load_ps(b.scale)};
  }
  Format w;
  static Super8 load(const std::byte* p) noexcept { return {Format::load(p)}; }
  __m512 add(__m512 sum, const X& x) const noexcept {
    // One register: scales of w by scales of x in lanes 0-7, mins of w by sums of x in lanes 8-15.
    const __m512 scale = _mm512_mul_ps(w.scale, x.scale);
    if constexpr (Format::kHasMin) sum = _mm512_mask_add_ps(sum, 0xff00, sum, scale);
    KVANT_UNROLL
    for (int h = 0; h < 2; ++h) {
      const __m512i index = by_group(4 * h, 4 * h + 1, 4 * h + 2, 4 * h + 3);
      sum = _mm512_fmadd_ps(products(x.start[h], w.codes[h], x.q[h]), _mm512_permutexvar_ps(index, scale), sum);
    }
    return sum;
  }
};

/// A superblock with a scale for each 16 values.
template <class Format>
struct Super16 {
  static constexpr std::size_t kValues = 256;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  struct X {
    Operand q[2];
    __m512 scale, sum;  // for each 16 values
  };
  static X load_x(const ActivationBlock* blocks, std::size_t step) noexcept {
    const ActivationBlock& b = blocks[step];
    const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return {{load_operand(b, 0), load_operand(b, 1)},
            _mm512_permutexvar_ps(pairs, _mm512_load_ps(b.scale)),
            _mm512_load_ps(b.half_sum)};
  }
  Format w;
  static Super16 load(const std::byte* p) noexcept { return {Format::load(p)}; }
  __m512 add(__m512 sum, const X& x) const noexcept {
    const __m512i zero = _mm512_setzero_si512();
    const __m512 scale = _mm512_mul_ps(w.scale, x.scale);
    sum = _mm512_fnmadd_ps(w.minus(), x.sum, sum);
    KVANT_UNROLL
    for (int h = 0; h < 2; ++h) {
      const __m512 low = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(zero, w.codes[h].low, x.q[h].low));
      const __m512 high = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(zero, w.codes[h].high, x.q[h].high));
      const int g = 8 * h;
      sum = _mm512_fmadd_ps(low, _mm512_permutexvar_ps(by_group(g, g + 2, g + 4, g + 6), scale), sum);
      sum = _mm512_fmadd_ps(high, _mm512_permutexvar_ps(by_group(g + 1, g + 3, g + 5, g + 7), scale), sum);
    }
    return sum;
  }
};

/// kStreams rows of weights, `apart` bytes from one to the next, by kRows rows of x, `stride` blocks apart, whose
/// results lie y_apart and y_stride floats apart: weights are unpacked once for all rows of x. Not inlined: it
/// needs all registers.
template <class Step, std::size_t kStreams, std::size_t kRows>
[[gnu::noinline]] void row_products(const std::byte* weights, std::size_t apart, std::size_t cols,
                                    const ActivationBlock* x, std::size_t stride, float* y, std::size_t y_apart,
                                    std::size_t y_stride) noexcept {
  __m512 sums[kStreams][kRows];
  KVANT_UNROLL
  for (auto& of_stream : sums) {
    KVANT_UNROLL
    for (__m512& sum : of_stream) sum = _mm512_setzero_ps();
  }
  const auto add = [&](const std::byte* p, std::size_t s, std::size_t step) {
    const Step w = Step::load(p);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) sums[s][r] = w.add(sums[s][r], Step::load_x(x + r * stride, step));
  };
  const std::size_t steps = cols / Step::kValues;
  for (std::size_t i = 0; i < steps; ++i, weights += Step::kBytes) {
    KVANT_UNROLL
    for (std::size_t s = 0; s < kStreams; ++s) {
      const std::byte* p = weights + s * apart;
      for (std::size_t line = 0; line < Step::kBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes + line), _MM_HINT_T0);
      }
      add(p, s, i);
    }
  }
  if (const std::size_t rest = cols % Step::kValues; rest != 0) {
    for (std::size_t s = 0; s < kStreams; ++s) {
      alignas(64) std::byte last[Step::kBytes] = {};
      std::memcpy(last, weights + s * apart, rest * Step::kBytes / Step::kValues);
      add(last, s, steps);
    }
  }
  KVANT_UNROLL
  for (std::size_t s = 0; s < kStreams; ++s) {
    KVANT_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) y[s * y_apart + r * y_stride] = _mm512_reduce_add_ps(sums[s][r]);
  }
}

/// Products of kStreams rows of weights, `apart` bytes from one to the next, and x. Each has four sums of 16 lanes, so
/// that four products are under way at once.
template <class Weights, std::size_t kStreams>
void float_products(const std::byte* weights, std::size_t apart, const float* x, std::size_t cols, float* y,
                    std::size_t y_apart) noexcept {
  __m512 sums[kStreams][4];
  for (auto& of_stream : sums) std::fill_n(of_stream, 4, _mm512_setzero_ps());
  std::size_t i = 0;
  for (; i + 64 <= cols; i += 64) {
    for (std::size_t s = 0; s < kStreams; ++s) {
      const std::byte* w = weights + s * apart + i * Weights::kBytes;
      KVANT_UNROLL
      for (std::size_t line = 0; line < 64 * Weights::kBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(w + kPrefetchBytes + line), _MM_HINT_T0);
      }
      KVANT_UNROLL
      for (std::size_t k = 0; k < 4; ++k) {
        const __m512 values = Weights::load(w + 16 * k * Weights::kBytes, 0xffff);
        sums[s][k] = _mm512_fmadd_ps(values, _mm512_loadu_ps(x + i + 16 * k), sums[s][k]);
      }
    }
  }
  for (std::size_t s = 0; s < kStreams; ++s) {
    const std::byte* w = weights + s * apart;
    __m512* sum = sums[s];
    for (std::size_t k = i; k < cols; k += 16) {
      const auto lanes = static_cast<__mmask16>((1u << std::min<std::size_t>(16, cols - k)) - 1);
      const __m512 values = Weights::load(w + k * Weights::kBytes, lanes);
      sum[0] = _mm512_fmadd_ps(values, _mm512_maskz_loadu_ps(lanes, x + k), sum[0]);
    }
    y[s * y_apart] = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
  }
}

#include "kernels/matmul/gemv.h"

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
