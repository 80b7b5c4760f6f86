// Register tiles of the two AVX-512 tile kernels: included within their instruction-set regions, after all includes.
// A panel's row holds 48 dwords: f32 values, or pairs of bf16 values that follow each other in k.
#include "kernels/matmul/transpose_avx512.h"

namespace kvant::kernels::avx512 {
namespace {

constexpr std::size_t kColumns = 48;  // three registers of 16
constexpr std::size_t kRows = 8;      // 24 sums, 3 weights and 1 activation in 32 registers
constexpr std::size_t kVectors = kColumns / 16;

/// Sixteen f32, those past `count` zero.
__m512 load_up_to(const float* p, std::size_t count) noexcept {
  if (count >= 16) return _mm512_loadu_ps(p);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}

/// 16 x 16 dwords to the panel's rows [0, rows).
void store_transposed(__m512i (&r)[16], std::size_t rows, std::int32_t* panel) noexcept {
  transpose(r);
  for (std::size_t i = 0; i < std::min<std::size_t>(rows, 16); ++i) _mm512_storeu_si512(panel + i * kColumns, r[i]);
}

/// The dword at p for all lanes.
__m512 to_all_lanes(const std::byte* p) noexcept {
  float value = 0;
  std::memcpy(&value, p, sizeof value);
  return _mm512_set1_ps(value);
}

/// kTileRows rows of x by a panel; `stride` and `depth` in dwords.
template <class Step, std::size_t kTileRows>
void tile(const std::byte* x, std::size_t stride, const float* panel, std::size_t depth, const TileArgs& a,
          float* y) noexcept {
  __m512 sums[kTileRows][kVectors];
  KVANT_UNROLL
  for (auto& row : sums) {
    KVANT_UNROLL
    for (__m512& sum : row) sum = _mm512_setzero_ps();
  }
  for (std::size_t k = 0; k < depth; ++k, panel += kColumns) {
    __m512 w[kVectors];
    KVANT_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) w[v] = _mm512_load_ps(panel + 16 * v);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kTileRows; ++r) {
      KVANT_UNROLL
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = Step::add(sums[r][v], x + 4 * (r * stride + k), w[v]);
    }
  }
  KVANT_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) {
    const std::size_t left = a.columns - std::min(a.columns, 16 * v);
    const auto lanes = static_cast<__mmask16>((1u << std::min<std::size_t>(16, left)) - 1);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kTileRows; ++r) {
      float* to = y + r * a.y_stride + 16 * v;
      const __m512 before = a.accumulate ? _mm512_maskz_loadu_ps(lanes, to) : _mm512_setzero_ps();
      _mm512_mask_storeu_ps(to, lanes, _mm512_add_ps(before, sums[r][v]));
    }
  }
}

template <class Step>
void multiply(const TileArgs& a) noexcept {
  using Function = void (*)(const std::byte*, std::size_t, const float*, std::size_t, const TileArgs&, float*) noexcept;
  static constexpr Function kTiles[kRows] = {tile<Step, 1>, tile<Step, 2>, tile<Step, 3>, tile<Step, 4>,
                                             tile<Step, 5>, tile<Step, 6>, tile<Step, 7>, tile<Step, 8>};
  const auto* x = static_cast<const std::byte*>(a.x);
  const std::size_t stride = a.x_stride / Step::kValues;
  const std::size_t depth = (a.depth + Step::kValues - 1) / Step::kValues;
  for (std::size_t r = 0; r < a.rows; r += kRows) {
    kTiles[std::min(kRows, a.rows - r) - 1](x + 4 * r * stride, stride, static_cast<const float*>(a.panel), depth, a,
                                            a.y + r * a.y_stride);
  }
}

}  // namespace
}  // namespace kvant::kernels::avx512
