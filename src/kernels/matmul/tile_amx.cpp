#include <algorithm>
#include <cstring>

#include "kernels/matmul/kernels.h"
#include "kernels/simd/amx.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
KVANT_TARGET_AMX_BEGIN
#include "kernels/matmul/pack_bf16_avx512.h"

namespace kvant::kernels::amx {
namespace {

constexpr std::size_t kColumns = 64;        // of a panel
constexpr std::size_t kDepth = 256;         // two registers of columns stay in the L1 cache while all rows pass
constexpr std::size_t kStep = 32;           // values of k in a register
constexpr std::size_t kSide = kMatrixRows;  // rows, or columns, of a register
constexpr std::size_t kBytes = 1024;        // of a register

/// For up to two registers of rows: 0 to 3 sums of two by two, 4 and 5 rows of x, 6 and 7 columns of the panel.
void configure(std::size_t rows) noexcept {
  MatrixShapes shapes;
  for (const std::size_t upper : {0U, 1U, 4U}) shapes.set(upper, std::min(kSide, rows), kMatrixRowBytes);
  for (const std::size_t lower : {2U, 3U, 5U}) {
    if (rows > kSide) shapes.set(lower, rows - kSide, kMatrixRowBytes);
  }
  shapes.load();
}

/// The units of 16 columns follow each other, in each the steps.
void pack(const float* rows, std::size_t stride, std::size_t depth, std::size_t first, void* panel) noexcept {
  avx512::pack_bf16<kSide, kStep>(rows, stride, depth, 0, static_cast<Bf16*>(panel) + first * kDepth);
}

/// One or two registers of rows by two of columns.
template <bool kTwo>
void multiply_block(const std::byte* x, const std::byte* panel, std::size_t steps, float* sums, bool accumulate) {
  constexpr std::size_t kSumStride = kColumns * sizeof(float), kRegisters = kDepth / kStep;
  float* const lower = sums + kSide * kColumns;
  if (accumulate) {
    _tile_loadd(0, sums, kSumStride);
    _tile_loadd(1, sums + kSide, kSumStride);
    if constexpr (kTwo) _tile_loadd(2, lower, kSumStride);
    if constexpr (kTwo) _tile_loadd(3, lower + kSide, kSumStride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (kTwo) _tile_zero(2);
    if constexpr (kTwo) _tile_zero(3);
  }
  for (std::size_t s = 0; s < steps; ++s, x += kBytes, panel += kBytes) {
    _tile_loadd(6, panel, 64);
    _tile_loadd(4, x, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, panel + kRegisters * kBytes, 64);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (kTwo) {
      _tile_loadd(5, x + kRegisters * kBytes, 64);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kSumStride);
  _tile_stored(1, sums + kSide, kSumStride);
  if constexpr (kTwo) _tile_stored(2, lower, kSumStride);
  if constexpr (kTwo) _tile_stored(3, lower + kSide, kSumStride);
}

void multiply(const TileArgs& a) noexcept {
  const std::size_t steps = (a.depth + kStep - 1) / kStep;
  const std::size_t blocks = (a.rows + 2 * kSide - 1) / (2 * kSide) * (kColumns / (2 * kSide));
  std::size_t configured = 0, block = 0, prefetched = 0;
  for (std::size_t c = 0; c < kColumns; c += 2 * kSide) {
    const std::byte* panel = static_cast<const std::byte*>(a.panel) + c * kDepth * sizeof(Bf16);
    for (std::size_t r = 0; r < a.rows; r += 2 * kSide) {
      const std::size_t rows = std::min(2 * kSide, a.rows - r);
      if (rows != configured) configure(rows);
      configured = rows;
      for (++block; prefetched < a.next.rows * block / blocks; ++prefetched) a.next.prefetch(prefetched);
      const std::byte* x = static_cast<const std::byte*>(a.x) + r * kDepth * sizeof(Bf16);
      float* sums = a.sums + r * kColumns + c;
      rows > kSide ? multiply_block<true>(x, panel, steps, sums, a.accumulate)
                   : multiply_block<false>(x, panel, steps, sums, a.accumulate);
    }
  }
  _tile_release();
}

}  // namespace

extern const Tile bf16_tile = {.columns = kColumns,
                               .depth = kDepth,
                               .bf16 = true,
                               .pack = pack,
                               .multiply = multiply,
                               .convert = avx512::convert_bf16<kDepth, kSide>,
                               .step = kStep,
                               .group = kSide,
                               .panels = 4,
                               .beats_int8_from = 64};

}  // namespace kvant::kernels::amx
KVANT_TARGET_END
#endif
