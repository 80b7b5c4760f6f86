#include <algorithm>

#include "kernels/matmul/formats_avx2.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
namespace {

constexpr std::size_t kPrefetchBytes = 3072;  // far enough ahead for the memory's latency
constexpr std::size_t kXRows = 4;             // rows of x that share unpacked weights; more would spill their sums
constexpr std::size_t kStreamXRows = 1;       // and with streams

float sum_lanes(__m256 v) noexcept {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

/// Sums of four products in 32-bit lanes; signed codes lend their signs to x, as the instruction takes unsigned ones.
template <bool kSigned>
__m256i dot(__m256i codes, const std::int8_t* q) noexcept {
  const __m256i x = _mm256_load_si256(reinterpret_cast<const __m256i*>(q));
  const __m256i pairs = kSigned ? _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes))
                                : _mm256_maddubs_epi16(codes, x);
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/// Minus kOffset times the codes of x of lanes 8j to 8j + 7.
template <int kOffset>
__m256i start(const ActivationBlock& x, std::size_t half, std::size_t j) noexcept {
  const auto* sums = reinterpret_cast<const __m256i*>(x.negative_sum[half]);
  return _mm256_slli_epi32(_mm256_load_si256(sums + j), __builtin_ctz(unsigned{kOffset}));
}

/// Products of groups 2j and 2j + 1 of a half, both parts added.
template <class Format>
__m256 products(const Codes& w, const ActivationBlock& x, std::size_t half, std::size_t j) noexcept {
  constexpr bool kSigned = Format::kSigned;
  const std::int8_t* q = x.q[half] + 32 * j;
  __m256i sum;
  if constexpr (kSigned) {
    sum = _mm256_add_epi32(dot<kSigned>(w.low[j], q), dot<kSigned>(w.high[j], q + 64));
  } else {  // codes of up to 5 bits: four products are at most 4 * 31 * 127
    const auto* values = reinterpret_cast<const __m256i*>(q);
    const __m256i low = _mm256_maddubs_epi16(w.low[j], _mm256_load_si256(values));
    const __m256i high = _mm256_maddubs_epi16(w.high[j], _mm256_load_si256(values + 2));
    sum = _mm256_madd_epi16(_mm256_add_epi16(low, high), _mm256_set1_epi16(1));
  }
  if constexpr (Format::kOffset != 0) sum = _mm256_add_epi32(sum, start<Format::kOffset>(x, half, j));
  return _mm256_cvtepi32_ps(sum);
}

/// Two chains, so that an addition need not wait for the one before.
struct Sum {
  __m256 chain[2];
};

/// Four 32-value blocks.
template <class Format>
struct Blocks {
  static constexpr std::size_t kValues = 128;
  static constexpr std::size_t kBytes = 4 * sizeof(typename Format::Block);
  Format w;
  static Blocks load(const std::byte* p) noexcept { return {Format::load(p)}; }
  void add(Sum& sum, const ActivationBlock* blocks, std::size_t step) const noexcept {
    const ActivationBlock& x = blocks[step / 2];
    const std::size_t half = step % 2;
    KVANT_UNROLL
    for (std::size_t j = 0; j < 2; ++j) {
      const __m256 scale = _mm256_load_ps(x.lane_scale[half] + 8 * j);
      if constexpr (Format::kHasMin) {
        const auto* sums = reinterpret_cast<const __m256i*>(x.negative_sum[half]);
        const __m256 minus_x = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_load_si256(sums + j)), scale);
        sum.chain[j] = _mm256_fnmadd_ps(w.m[j], minus_x, sum.chain[j]);
      }
      sum.chain[j] = _mm256_fmadd_ps(products<Format>(w.codes, x, half, j), _mm256_mul_ps(w.d[j], scale), sum.chain[j]);
    }
  }
};

/// A superblock with a scale for each 32 values.
template <class Format>
struct Super8 {
  static constexpr std::size_t kValues = 256;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  Format w;
  Codes codes[2];
  [[gnu::always_inline]] static Super8 load(const std::byte* p) noexcept {  // g++ would return it through memory
    const Format w = Format::load(p);
    return {w, {w.codes(0), w.codes(1)}};
  }
  void add(Sum& sum, const ActivationBlock* blocks, std::size_t step) const noexcept {
    const ActivationBlock& x = blocks[step];
    const __m256 scale = _mm256_mul_ps(w.scale, _mm256_load_ps(x.scale));
    if constexpr (Format::kHasMin) sum.chain[0] = _mm256_fmadd_ps(w.min, _mm256_load_ps(x.minus_sum), sum.chain[0]);
    KVANT_UNROLL
    for (std::size_t h = 0; h < 2; ++h) {
      KVANT_UNROLL
      for (std::size_t j = 0; j < 2; ++j) {
        const int g = static_cast<int>(4 * h + 2 * j);
        sum.chain[j] = _mm256_fmadd_ps(products<Format>(codes[h], x, h, j),
                                       _mm256_permutevar8x32_ps(scale, by_group(g, g + 1)), sum.chain[j]);
      }
    }
  }
};

/// A superblock with a scale for each 16 values.
template <class Format>
struct Super16 {
  static constexpr std::size_t kValues = 256;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  Format w;
  Codes codes[2];
  [[gnu::always_inline]] static Super16 load(const std::byte* p) noexcept {  // g++ would return it through memory
    const Format w = Format::load(p);
    return {w, {w.codes(0), w.codes(1)}};
  }
  void add(Sum& sum, const ActivationBlock* blocks, std::size_t step) const noexcept {
    const ActivationBlock& x = blocks[step];
    KVANT_UNROLL
    for (std::size_t h = 0; h < 2; ++h) {
      const __m256 x_scale =
          _mm256_permutevar8x32_ps(_mm256_broadcast_ps(reinterpret_cast<const __m128*>(x.scale + 4 * h)),
                                   _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
      const __m256 scale = _mm256_mul_ps(w.scale[h], x_scale);
      sum.chain[h] = _mm256_fnmadd_ps(w.min[h], _mm256_load_ps(x.half_sum + 8 * h), sum.chain[h]);
      KVANT_UNROLL
      for (std::size_t j = 0; j < 2; ++j) {
        const std::int8_t* q = x.q[h] + 32 * j;
        const int s = static_cast<int>(4 * j);
        const __m256 low = _mm256_cvtepi32_ps(dot<false>(codes[h].low[j], q));
        const __m256 high = _mm256_cvtepi32_ps(dot<false>(codes[h].high[j], q + 64));
        sum.chain[0] = _mm256_fmadd_ps(low, _mm256_permutevar8x32_ps(scale, by_group(s, s + 2)), sum.chain[0]);
        sum.chain[1] = _mm256_fmadd_ps(high, _mm256_permutevar8x32_ps(scale, by_group(s + 1, s + 3)), sum.chain[1]);
      }
    }
  }
};

/// kStreams rows of weights, `apart` bytes from one to the next, by kRows rows of x, `stride` blocks apart, whose
/// results lie y_apart and y_stride floats apart. Not inlined, as g++ would then give its loop too few registers.
template <class Step, std::size_t kStreams, std::size_t kRows>
[[gnu::noinline]] void row_products(const std::byte* weights, std::size_t apart, std::size_t cols,
                                    const ActivationBlock* x, std::size_t stride, float* y, std::size_t y_apart,
                                    std::size_t y_stride) noexcept {
  Sum sums[kStreams][kRows];
  for (auto& of_stream : sums) std::fill_n(of_stream, kRows, Sum{{_mm256_setzero_ps(), _mm256_setzero_ps()}});
  const auto add = [&](const std::byte* p, std::size_t s, std::size_t step) {
    const Step w = Step::load(p);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) w.add(sums[s][r], x + r * stride, step);
  };
  const std::size_t steps = cols / Step::kValues;
  for (std::size_t i = 0; i < steps; ++i, weights += Step::kBytes) {
    for (std::size_t s = 0; s < kStreams; ++s) {
      const std::byte* p = weights + s * apart;
      for (std::size_t line = 0; line < Step::kBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes + line), _MM_HINT_T0);
      }
      add(p, s, i);
    }
  }
  for (std::size_t s = 0; s < kStreams; ++s) {
    if (const std::size_t rest = cols % Step::kValues; rest != 0) {
      std::byte last[Step::kBytes] = {};
      std::memcpy(last, weights + s * apart, rest * Step::kBytes / Step::kValues);
      add(last, s, steps);
    }
    KVANT_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) {
      const Sum& sum = sums[s][r];
      y[s * y_apart + r * y_stride] = sum_lanes(_mm256_add_ps(sum.chain[0], sum.chain[1]));
    }
  }
}

/// Products of kStreams rows of weights, `apart` bytes from one to the next, and x.
template <class Weights, std::size_t kStreams>
void float_products(const std::byte* weights, std::size_t apart, const float* x, std::size_t cols, float* y,
                    std::size_t y_apart) noexcept {
  __m256 sums[kStreams][4];
  for (auto& of_stream : sums) std::fill_n(of_stream, 4, _mm256_setzero_ps());
  std::size_t i = 0;
  for (; i + 32 <= cols; i += 32) {
    for (std::size_t s = 0; s < kStreams; ++s) {
      const std::byte* w = weights + s * apart + i * Weights::kBytes;
      KVANT_UNROLL
      for (std::size_t line = 0; line < 32 * Weights::kBytes; line += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(w + kPrefetchBytes + line), _MM_HINT_T0);
      }
      KVANT_UNROLL
      for (std::size_t k = 0; k < 4; ++k) {
        const __m256 values = Weights::load(w + 8 * k * Weights::kBytes);
        sums[s][k] = _mm256_fmadd_ps(values, _mm256_loadu_ps(x + i + 8 * k), sums[s][k]);
      }
    }
  }
  for (std::size_t s = 0; s < kStreams; ++s) {
    __m256* sum = sums[s];
    for (std::size_t k = i; k < cols; k += 8) {
      const std::size_t left = std::min<std::size_t>(8, cols - k);
      alignas(32) std::byte last[8 * Weights::kBytes] = {};
      float last_x[8] = {};
      std::memcpy(last, weights + s * apart + k * Weights::kBytes, left * Weights::kBytes);
      std::memcpy(last_x, x + k, left * sizeof(float));
      sum[0] = _mm256_fmadd_ps(Weights::load(last), _mm256_loadu_ps(last_x), sum[0]);
    }
    y[s * y_apart] = sum_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3])));
  }
}

#include "kernels/matmul/gemv.h"

}  // namespace

void gemv_f32(const GemvArgs& a) noexcept { float_gemv<F32Weights>(a); }
void gemv_f16(const GemvArgs& a) noexcept { float_gemv<F16Weights>(a); }
void gemv_bf16(const GemvArgs& a) noexcept { float_gemv<Bf16Weights>(a); }
void gemv_q4_0(const GemvArgs& a) noexcept { gemv<Blocks<Q4_0>>(a); }
void gemv_q4_1(const GemvArgs& a) noexcept { gemv<Blocks<Q4_1>>(a); }
void gemv_q5_0(const GemvArgs& a) noexcept { gemv<Blocks<Q5_0>>(a); }
void gemv_q5_1(const GemvArgs& a) noexcept { gemv<Blocks<Q5_1>>(a); }
void gemv_q8_0(const GemvArgs& a) noexcept { gemv<Blocks<Q8_0>>(a); }
void gemv_q2_k(const GemvArgs& a) noexcept { gemv<Super16<Q2_K>>(a); }
void gemv_q3_k(const GemvArgs& a) noexcept { gemv<Super16<Q3_K>>(a); }
void gemv_q4_k(const GemvArgs& a) noexcept { gemv<Super8<Q4_K>>(a); }
void gemv_q5_k(const GemvArgs& a) noexcept { gemv<Super8<Q5_K>>(a); }
void gemv_q6_k(const GemvArgs& a) noexcept { gemv<Super16<Q6_K>>(a); }
void gemv_iq4_nl(const GemvArgs& a) noexcept { gemv<Blocks<IQ4_NL>>(a); }
void gemv_iq4_xs(const GemvArgs& a) noexcept { gemv<Super8<IQ4_XS>>(a); }

}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
