// Register tiles of the two AVX-512 tile kernels: included within their instruction-set regions, after all includes.
// A panel's row holds 48 dwords: f32 values, or pairs of bf16 values that follow each other in k.
#include "kernels/matmul/pack_avx512.h"

namespace kvant::kernels::avx512 {
namespace {

constexpr std::size_t kColumns = 48;  // three registers of 16
constexpr std::size_t kRows = 8;      // 24 sums, 3 weights and 1 activation in 32 registers
constexpr std::size_t kVectors = kColumns / 16;

/// The dword at p for all lanes.
__m512 to_all_lanes(const std::byte* p) noexcept {
  float value = 0;
  std::memcpy(&value, p, sizeof value);
  return _mm512_set1_ps(value);
}

/// kTileRows rows of x by a panel; `stride` and `depth` in dwords.
template <class Step, std::size_t kTileRows>
void tile(const std::byte* x, std::size_t stride, const float* panel, std::size_t depth, const TileArgs& a,
          float* out) noexcept {
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
  for (std::size_t r = 0; r < kTileRows; ++r) {
    KVANT_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) {
      float* to = out + r * kColumns + 16 * v;
      _mm512_storeu_ps(to, a.accumulate ? _mm512_add_ps(_mm512_loadu_ps(to), sums[r][v]) : sums[r][v]);
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
                                            a.sums + r * kColumns);
  }
}

}  // namespace
}  // namespace kvant::kernels::avx512
