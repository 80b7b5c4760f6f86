#include <algorithm>
#include <cstring>

#include "kernels/matmul/kernels.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
#include "kernels/matmul/transpose_avx2.h"

namespace kvant::kernels::avx2 {
namespace {

constexpr std::size_t kColumns = 16;  // two registers
constexpr std::size_t kRows = 6;      // 12 sums, 2 weights and 1 activation in 16 registers

void pack(const float* rows, std::size_t stride, std::size_t depth, std::size_t first, void* panel) noexcept {
  auto* out = static_cast<float*>(panel) + first;
  std::size_t k = 0;
  for (; k + 8 <= depth; k += 8) {
    for (std::size_t c = 0; c < kColumns; c += 8) {
      __m256 r[8];
      for (std::size_t i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(rows + (c + i) * stride + k);
      transpose(r);
      for (std::size_t i = 0; i < 8; ++i) _mm256_storeu_ps(out + (k + i) * kColumns + c, r[i]);
    }
  }
  for (; k < depth; ++k) {
    for (std::size_t i = 0; i < kColumns; ++i) out[k * kColumns + i] = rows[i * stride + k];
  }
}

/// kTileRows rows of x by a panel.
template <std::size_t kTileRows>
void tile(const float* x, const TileArgs& a, float* out) noexcept {
  __m256 sums[kTileRows][2];
  KVANT_UNROLL
  for (auto& row : sums) row[0] = row[1] = _mm256_setzero_ps();
  const auto* panel = static_cast<const float*>(a.panel);
  for (std::size_t k = 0; k < a.depth; ++k, panel += kColumns) {
    const __m256 w0 = _mm256_load_ps(panel), w1 = _mm256_load_ps(panel + 8);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kTileRows; ++r) {
      const __m256 value = _mm256_broadcast_ss(x + r * a.x_stride + k);
      sums[r][0] = _mm256_fmadd_ps(value, w0, sums[r][0]);
      sums[r][1] = _mm256_fmadd_ps(value, w1, sums[r][1]);
    }
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < kTileRows; ++r) {
    KVANT_UNROLL
    for (std::size_t v = 0; v < 2; ++v) {
      float* to = out + r * kColumns + 8 * v;
      _mm256_storeu_ps(to, a.accumulate ? _mm256_add_ps(_mm256_loadu_ps(to), sums[r][v]) : sums[r][v]);
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

}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
