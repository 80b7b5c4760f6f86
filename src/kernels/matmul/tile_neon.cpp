#include <algorithm>

#include "kernels/matmul/kernels.h"
#include "kernels/simd/target.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
namespace {

constexpr std::size_t kColumns = 16;  // four registers
constexpr std::size_t kRows = 6;      // 24 sums, 4 weights and 1 activation in 32 registers
constexpr std::size_t kVectors = kColumns / 4;

void pack(const float* rows, std::size_t stride, std::size_t depth, std::size_t first, void* panel) noexcept {
  auto* out = static_cast<float*>(panel) + first;
  std::size_t k = 0;
  for (; k + 4 <= depth; k += 4) {
    for (std::size_t c = 0; c < kColumns; c += 4) {
      const float* p = rows + c * stride + k;
      const float32x4_t a = vld1q_f32(p), b = vld1q_f32(p + stride), d = vld1q_f32(p + 2 * stride),
                        e = vld1q_f32(p + 3 * stride);
      const float64x2_t ab_even = vreinterpretq_f64_f32(vtrn1q_f32(a, b)),
                        ab_odd = vreinterpretq_f64_f32(vtrn2q_f32(a, b));
      const float64x2_t de_even = vreinterpretq_f64_f32(vtrn1q_f32(d, e)),
                        de_odd = vreinterpretq_f64_f32(vtrn2q_f32(d, e));
      float* to = out + k * kColumns + c;
      vst1q_f32(to, vreinterpretq_f32_f64(vtrn1q_f64(ab_even, de_even)));
      vst1q_f32(to + kColumns, vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, de_odd)));
      vst1q_f32(to + 2 * kColumns, vreinterpretq_f32_f64(vtrn2q_f64(ab_even, de_even)));
      vst1q_f32(to + 3 * kColumns, vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, de_odd)));
    }
  }
  for (; k < depth; ++k) {
    for (std::size_t i = 0; i < kColumns; ++i) out[k * kColumns + i] = rows[i * stride + k];
  }
}

/// kTileRows rows of x by a panel.
template <std::size_t kTileRows>
void tile(const float* x, const TileArgs& a, float* out) noexcept {
  float32x4_t sums[kTileRows][kVectors];
  KVANT_UNROLL
  for (auto& row : sums) {
    KVANT_UNROLL
    for (float32x4_t& sum : row) sum = vdupq_n_f32(0);
  }
  const auto* panel = static_cast<const float*>(a.panel);
  for (std::size_t k = 0; k < a.depth; ++k, panel += kColumns) {
    const float32x4x4_t w = vld1q_f32_x4(panel);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kTileRows; ++r) {
      const float value = x[r * a.x_stride + k];
      KVANT_UNROLL
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = vfmaq_n_f32(sums[r][v], w.val[v], value);
    }
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < kTileRows; ++r) {
    KVANT_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) {
      float* to = out + r * kColumns + 4 * v;
      vst1q_f32(to, a.accumulate ? vaddq_f32(vld1q_f32(to), sums[r][v]) : sums[r][v]);
    }
  }
}

void multiply(const TileArgs& a) noexcept {
  using Function = void (*)(const float*, const TileArgs&, float*) noexcept;
  static constexpr Function kTiles[kRows] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};
  const auto* x = static_cast<const float*>(a.x);
  for (std::size_t r = 0; r < a.rows; r += kRows) {
    kTiles[std::min(kRows, a.rows - r) - 1](x + r * a.x_stride, a, a.sums + r * kColumns);
  }
}

}  // namespace

extern const Tile f32_tile = {kColumns, 256, false, pack, multiply, nullptr};

}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
