#pragma once
#include <cstddef>
#include <limits>
#include <span>

#include "base/half.h"
#include "base/view.h"
#include "gguf/types.h"
#include "kernels/matmul/activations.h"
#include "kernels/registry.h"

/// The parts of a weight product: decode kernels (few activation rows, weights read once), row decoders and tiles (many
/// rows). All are noexcept, allocate nothing, and read no byte behind the last block of the last row.
namespace kvant::kernels {

/// A kernel for one weight type.
template <class Function>
struct WeightKernel : Implementation<Function> {
  gguf::TensorType type;
};

/// The most capable kernel of a type that may run where `isa` was chosen, or null.
template <class Function>
Function find(std::span<const WeightKernel<Function>> list, gguf::TensorType type, Isa isa) noexcept {
  for (const auto& kernel : list) {
    if (kernel.type == type && includes(isa, kernel.isa)) return kernel.function;
  }
  return nullptr;
}

/// Operands of a decode kernel.
struct GemvArgs {
  const std::byte* weights;  ///< `rows` adjacent rows of `cols` values in each of `streams` places, any alignment
  std::size_t rows, cols;
  MatView<const float> x;         ///< [n, cols]: read for f32, f16 and bf16 weights
  const ActivationBlock* blocks;  ///< [n, activation_blocks(cols)], the same as int8: read for all other types
  float* y;                       ///< y[r * y_stride + o], overwritten
  std::size_t y_stride;
  /// 1, or kStreams: so many places, `apart` rows from one to the next, are read in turn, which is faster on some
  /// processors (base/cpu.h). The results are the same, bit for bit.
  std::size_t streams = 1;
  std::size_t apart = 0;
  static constexpr std::size_t kStreams = 4;
};

/// y[r][o] = sum_i x[r][i] * W[o][i] for s * apart <= o < s * apart + rows, s < streams, straight on the blocks. Row
/// r's result does not depend on the other rows of x. Numerics: int8 activations: exact integer sums of products, one
/// f32 scale for each 8 (k-quants of 16: 4) of them.
using Gemv = void (*)(const GemvArgs&) noexcept;

/// All decode kernels; a tier without one for a type uses the tiles.
std::span<const WeightKernel<Gemv>> gemv_kernels() noexcept;

/// Operands of a prefill kernel: a panel of weight rows by any number of rows of x.
struct GemmArgs {
  static constexpr std::size_t kMaxRows = 48;
  static constexpr std::size_t kPanelBytes = 30 * 1024;
  /// Scratch for `n` rows of x: a panel, and sums that stay together in the cache until all columns are done.
  static constexpr std::size_t scratch_bytes(std::size_t n) { return kPanelBytes + n * kMaxRows * sizeof(float); }

  const std::byte* weights;  ///< `rows` adjacent rows (at most kMaxRows) of `cols` values, any alignment
  std::size_t rows, cols;
  const ActivationBlock* blocks;  ///< [activation_blocks(cols), n]: block i of all rows of x, then block i + 1
  std::size_t n;
  float* y;  ///< y[r * y_stride + o], overwritten
  std::size_t y_stride;
  std::byte* scratch;  ///< scratch_bytes(n), 64-byte aligned
};

/// The product of Gemv, its sums in another order: each 256 columns of the weights are unpacked once, laid out by
/// columns, and meet all rows of x. Row r's result does not depend on the other rows of x.
using Gemm = void (*)(const GemmArgs&) noexcept;

/// All prefill kernels on int8 activations; a tier without one for a type uses the tiles.
std::span<const WeightKernel<Gemm>> gemm_kernels() noexcept;

/// out[0, values) = the values of `data`; the same bits as gguf::dequantize. `values` is a multiple of the type's
/// block.
using DecodeValues = void (*)(const std::byte* data, std::size_t values, float* out) noexcept;
/// All row decoders; gguf::dequantize does what is missing.
std::span<const WeightKernel<DecodeValues>> decode_kernels() noexcept;

/// Pieces of weight rows that will be unpacked next: far apart, which processors do not foresee. A tile may bring them
/// towards the processor while it multiplies.
struct UpcomingRows {
  const std::byte* data = nullptr;
  std::size_t stride = 0, rows = 0, bytes = 0;

  /// Piece i.
  void prefetch(std::size_t i) const noexcept {
    constexpr std::size_t kLine = 64;
    for (std::size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(data + i * stride + at, 0, 2);
  }
};

/// Operands of a tile product.
struct TileArgs {
  const void* x;         ///< `depth` values of each row of x: f32, or a piece of bf16
  std::size_t x_stride;  ///< values from row to row, where rows are not laid out in groups
  std::size_t rows;
  const void* panel;  ///< [depth, columns], packed
  std::size_t depth;
  float* sums;      ///< [rows, columns]
  bool accumulate;  ///< add to the sums instead of overwriting them
  UpcomingRows next = {};
};

/// sums[r][c] (+)= sum_k x[r][k] * panel[k][c]: register tiles over a panel of decoded weight rows that stays in the L2
/// cache. Each sum runs through k in order whatever the number of rows.
/// f32 rows of x are read where they are. bf16 ones are laid out anew, as [cols / depth] pieces of
/// [rows / group][depth / step][group][step] values: rows padded to whole groups with anything, values with zeros.
struct Tile {
  static constexpr std::size_t kUnit = 16;  ///< weight rows packed at a time

  std::size_t columns;  ///< weight rows of a panel, a multiple of kUnit
  std::size_t depth;    ///< values of a row in a panel at most, a multiple of 256
  bool bf16;            ///< element type of x and panel: bf16 or f32

  /// Packs kUnit rows, `stride` apart, as columns [first, first + kUnit) of a panel: `depth` values of each.
  void (*pack)(const float* rows, std::size_t stride, std::size_t depth, std::size_t first, void* panel) noexcept;
  void (*multiply)(const TileArgs&) noexcept;
  /// Rounds a row of activations to bf16, nearest even (null for f32): piece i of up to `depth` values to
  /// out + i * stride.
  void (*convert)(const float* x, std::size_t cols, std::size_t stride, Bf16* out) noexcept;
  std::size_t step = 1;    ///< values of k taken at once, at most 32
  std::size_t group = 1;   ///< rows of x laid out together
  std::size_t panels = 1;  ///< that share a piece of x in the L2 cache at most
  /// Rows of x from which it is faster than the prefill kernels on int8 activations; the default stands for none.
  std::size_t beats_int8_from = std::numeric_limits<std::size_t>::max();

  std::size_t element_bytes() const noexcept { return bf16 ? sizeof(Bf16) : sizeof(float); }
  /// Where values from depth k on lie in a panel, in floats: [depth, columns] with bf16 pairs as one dword.
  std::size_t dwords(std::size_t k) const noexcept { return (bf16 ? k / 2 : k) * columns; }
  /// Values of bf16 x: `rows` rows of one piece of `depth` values.
  std::size_t piece(std::size_t rows) const noexcept { return (rows + group - 1) / group * group * depth; }
  /// Where row r begins in a piece.
  std::size_t row(std::size_t r) const noexcept { return r / group * group * depth + r % group * step; }
};

/// All tiles: bf16 ones before the f32 one of their tier, which the scalar one ends.
std::span<const Implementation<const Tile*>> tiles() noexcept;
/// The most capable tile for `isa` on this processor; bf16 ones only when `bf16` is set.
const Tile& find_tile(Isa isa, bool bf16) noexcept;

}  // namespace kvant::kernels
