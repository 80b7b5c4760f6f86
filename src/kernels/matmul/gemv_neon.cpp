#include <algorithm>

#include "kernels/matmul/formats_neon.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
namespace {

constexpr std::size_t kXRows = 4;  // rows of x that share unpacked weights

/// Sums of 16 products for each of four groups.
float32x4_t dots(const int8x16_t (&w)[4], const std::int8_t* q) noexcept {
  int32x4_t sums[4];
  KVANT_UNROLL
  for (int g = 0; g < 4; ++g) sums[g] = vdotq_s32(vdupq_n_s32(0), w[g], vld1q_s8(q + 16 * g));
  return vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3])));
}

/// Sums of 32 products for each of four groups.
float32x4_t products(const Codes& w, const std::int8_t* q) noexcept {
  int32x4_t sums[4];
  KVANT_UNROLL
  for (int g = 0; g < 4; ++g) {
    sums[g] = vdotq_s32(vdupq_n_s32(0), w.low[g], vld1q_s8(q + 16 * g));
    sums[g] = vdotq_s32(sums[g], w.high[g], vld1q_s8(q + 64 + 16 * g));
  }
  return vcvtq_f32_s32(vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3])));
}

/// Four 32-value blocks.
template <class Format>
struct Blocks {
  static constexpr std::size_t kValues = 128;
  static constexpr std::size_t kBytes = 4 * sizeof(typename Format::Block);
  Format w;
  static Blocks load(const std::byte* p) noexcept { return {Format::load(p)}; }
  float32x4_t add(float32x4_t sum, const ActivationBlock* blocks, std::size_t step) const noexcept {
    const ActivationBlock& x = blocks[step / 2];
    const std::size_t half = step % 2;
    if constexpr (Format::kHasMin) sum = vfmsq_f32(sum, w.m, vld1q_f32(x.minus_sum + 4 * half));
    return vfmaq_f32(sum, products(w.codes, x.q[half]), vmulq_f32(w.d, vld1q_f32(x.scale + 4 * half)));
  }
};

/// A superblock.
template <class Format>
struct Super {
  static constexpr std::size_t kValues = 256;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  Format w;
  Codes codes[2];
  static Super load(const std::byte* p) noexcept {
    const Format w = Format::load(p);
    return {w, {w.codes(0), w.codes(1)}};
  }
  float32x4_t add(float32x4_t sum, const ActivationBlock* blocks, std::size_t step) const noexcept {
    const ActivationBlock& x = blocks[step];
    KVANT_UNROLL
    for (int h = 0; h < 2; ++h) {
      const float32x4_t x_scale = vld1q_f32(x.scale + 4 * h);
      if constexpr (Format::kScales == 8) {
        if constexpr (Format::kHasMin) {
          sum = vfmaq_f32(sum, vld1q_f32(w.min + 4 * h), vld1q_f32(x.minus_sum + 4 * h));
        }
        sum = vfmaq_f32(sum, products(codes[h], x.q[h]), vmulq_f32(vld1q_f32(w.scale + 4 * h), x_scale));
      } else {
        const float32x4x2_t scale = vld2q_f32(w.scale + 8 * h);  // of values 0-15 and 16-31 of the groups
        if constexpr (Format::kHasMin) {
          const float32x4x2_t min = vld2q_f32(w.min + 8 * h), x_sum = vld2q_f32(x.half_sum + 8 * h);
          sum = vfmsq_f32(vfmsq_f32(sum, min.val[0], x_sum.val[0]), min.val[1], x_sum.val[1]);
        }
        sum = vfmaq_f32(sum, dots(codes[h].low, x.q[h]), vmulq_f32(scale.val[0], x_scale));
        sum = vfmaq_f32(sum, dots(codes[h].high, x.q[h] + 64), vmulq_f32(scale.val[1], x_scale));
      }
    }
    return sum;
  }
};

/// One row of weights by kRows rows of x, `stride` blocks apart.
template <class Step, std::size_t kRows>
void row_products(const std::byte* weights, std::size_t cols, const ActivationBlock* x, std::size_t stride, float* y,
                  std::size_t y_stride) noexcept {
  float32x4_t sums[kRows];
  for (float32x4_t& sum : sums) sum = vdupq_n_f32(0);
  const auto add = [&](const std::byte* p, std::size_t step) {
    const Step w = Step::load(p);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) sums[r] = w.add(sums[r], x + r * stride, step);
  };
  const std::size_t steps = cols / Step::kValues;
  for (std::size_t s = 0; s < steps; ++s, weights += Step::kBytes) add(weights, s);
  if (const std::size_t rest = cols % Step::kValues; rest != 0) {
    std::byte last[Step::kBytes] = {};
    std::memcpy(last, weights, rest * Step::kBytes / Step::kValues);
    add(last, steps);
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < kRows; ++r) y[r * y_stride] = vaddvq_f32(sums[r]);
}

/// The i-th row of the weights, streams one after the other.
std::size_t row_at(const GemvArgs& a, std::size_t i) noexcept { return i / a.rows * a.apart + i % a.rows; }

template <class Step>
void gemv(const GemvArgs& a) noexcept {
  const std::size_t row_bytes = a.cols * Step::kBytes / Step::kValues;
  const std::size_t stride = activation_blocks(a.cols);
  for (std::size_t i = 0; i < a.streams * a.rows; ++i) {
    const std::size_t o = row_at(a, i);
    const std::byte* w = a.weights + o * row_bytes;
    std::size_t r = 0;
    for (; r + kXRows <= a.x.rows; r += kXRows) {
      row_products<Step, kXRows>(w, a.cols, a.blocks + r * stride, stride, a.y + r * a.y_stride + o, a.y_stride);
    }
    for (; r < a.x.rows; ++r) {
      row_products<Step, 1>(w, a.cols, a.blocks + r * stride, stride, a.y + r * a.y_stride + o, a.y_stride);
    }
  }
}

template <class Weights>
float float_product(const std::byte* w, const float* x, std::size_t cols) noexcept {
  float32x4_t sums[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
  std::size_t i = 0;
  for (; i + 16 <= cols; i += 16) {
    for (std::size_t k = 0; k < 4; ++k) {
      const std::size_t at = i + 4 * k;
      sums[k] = vfmaq_f32(sums[k], Weights::load(w + at * Weights::kBytes), vld1q_f32(x + at));
    }
  }
  for (; i < cols; i += 4) {
    const std::size_t left = std::min<std::size_t>(4, cols - i);
    std::byte last[4 * Weights::kBytes] = {};
    float last_x[4] = {};
    std::memcpy(last, w + i * Weights::kBytes, left * Weights::kBytes);
    std::memcpy(last_x, x + i, left * sizeof(float));
    sums[0] = vfmaq_f32(sums[0], Weights::load(last), vld1q_f32(last_x));
  }
  return vaddvq_f32(vaddq_f32(vaddq_f32(sums[0], sums[1]), vaddq_f32(sums[2], sums[3])));
}

template <class Weights>
void float_gemv(const GemvArgs& a) noexcept {
  for (std::size_t i = 0; i < a.streams * a.rows; ++i) {
    const std::size_t o = row_at(a, i);
    const std::byte* w = a.weights + o * a.cols * Weights::kBytes;
    for (std::size_t r = 0; r < a.x.rows; ++r) {
      a.y[r * a.y_stride + o] = float_product<Weights>(w, a.x.data + r * a.x.stride, a.cols);
    }
  }
}

}  // namespace

void gemv_f32(const GemvArgs& a) noexcept { float_gemv<F32Weights>(a); }
void gemv_f16(const GemvArgs& a) noexcept { float_gemv<F16Weights>(a); }
void gemv_bf16(const GemvArgs& a) noexcept { float_gemv<Bf16Weights>(a); }
void gemv_q4_0(const GemvArgs& a) noexcept { gemv<Blocks<Q4_0>>(a); }
void gemv_q4_1(const GemvArgs& a) noexcept { gemv<Blocks<Q4_1>>(a); }
void gemv_q5_0(const GemvArgs& a) noexcept { gemv<Blocks<Q5_0>>(a); }
void gemv_q5_1(const GemvArgs& a) noexcept { gemv<Blocks<Q5_1>>(a); }
void gemv_q8_0(const GemvArgs& a) noexcept { gemv<Blocks<Q8_0>>(a); }
void gemv_q2_k(const GemvArgs& a) noexcept { gemv<Super<Q2_K>>(a); }
void gemv_q3_k(const GemvArgs& a) noexcept { gemv<Super<Q3_K>>(a); }
void gemv_q4_k(const GemvArgs& a) noexcept { gemv<Super<Q4_K>>(a); }
void gemv_q5_k(const GemvArgs& a) noexcept { gemv<Super<Q5_K>>(a); }
void gemv_q6_k(const GemvArgs& a) noexcept { gemv<Super<Q6_K>>(a); }
void gemv_iq4_nl(const GemvArgs& a) noexcept { gemv<Blocks<IQ4_NL>>(a); }
void gemv_iq4_xs(const GemvArgs& a) noexcept { gemv<Super<IQ4_XS>>(a); }

}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
