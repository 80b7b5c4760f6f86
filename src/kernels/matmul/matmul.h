#pragma once
#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu.h"
#include "base/thread_pool.h"
#include "base/view.h"
#include "gguf/types.h"
#include "kernels/matmul/kernels.h"

namespace kvant::kernels {

/// A weight matrix as it lies in the mapped file: `rows` outputs of `cols` inputs, blocks along a row, rows adjacent.
struct WeightView {
  gguf::TensorType type;
  const std::byte* data;
  std::size_t rows;
  std::size_t cols;
  std::size_t bytes() const noexcept { return rows * gguf::row_bytes(type, cols); }
};

/// How products are computed.
/// reference  weights decoded to f32, f32 activations and sums throughout: for logits, KLD and tests
/// fast       straight on the quantized blocks with int8 activations, or on weights decoded to bf16, as is faster
enum class Precision { reference, fast };

/// Products of activations with weight matrices, y = x W^T. Results depend on isa and precision and on nothing else:
/// not on the number of threads, nor on how rows of x are batched together (a row alone gives the bits it gives among
/// others, in reference precision; fast precision may differ between up to kDecodeRows rows and more, and where another
/// kernel takes over at Tile::beats_int8_from).
class Matmul {
 public:
  /// Rows of x up to which the decode kernels run (weights read once for all of them).
  static constexpr std::size_t kDecodeRows = 16;

  Matmul(Isa isa, Precision precision);

  /// y[r][o] = sum_i x[r][i] * W[o][i] for all weights at once: outputs[k] gets x times weights[k].
  /// x [n, cols] f32; y [n, weights.rows] f32, overwritten; all weights have x.cols columns.
  struct Product {
    WeightView weights;
    MatView<float> y;
  };
  void operator()(ThreadPool& pool, MatView<const float> x, std::span<const Product> products);

  /// Bytes of scratch memory held at present (quantized activations, decoded weight panels).
  std::size_t workspace_bytes() const noexcept;

 private:
  /// Rows [begin, end) of a product's weights; of gemv those of the first stream (GemvArgs).
  struct Task {
    const Product* product;
    std::size_t begin, end;
    enum class Way { gemv, gemm, tiles } way;
    std::size_t streams = 1, apart = 0;
  };
  struct Kernels {
    Gemv gemv = nullptr;            // null: tiles
    Gemm gemm = nullptr;            // null: tiles
    DecodeValues decode = nullptr;  // null: gguf::dequantize
  };
  struct Workspace;
  struct TileScratch;

  const Kernels& kernels(gguf::TensorType type) const { return kernels_[static_cast<std::size_t>(type)]; }
  void plan(std::size_t rows, std::span<const Product> products, std::size_t threads);
  void plan_gemv(const Product& product, std::size_t threads);
  Workspace prepare(ThreadPool& pool, MatView<const float> x);
  void run_gemv(const Task& task, MatView<const float> x, const Workspace& workspace) const;
  void run_gemm(const Task& task, MatView<const float> x, const Workspace& workspace, int thread) const;
  void fill_panel(const WeightView& w, std::size_t begin, std::size_t count, std::size_t first, std::size_t depth,
                  const TileScratch& scratch) const;
  void run_tiles(const Task& task, MatView<const float> x, const Workspace& workspace, int thread) const;

  std::array<Kernels, 32> kernels_;  // by tensor type
  const Tile* tile_;
  QuantizeActivations quantize_;
  std::size_t streams_;      // of GemvArgs
  std::vector<Task> tasks_;  // of the current call
  std::size_t panels_ = 1;   // of a task of tiles at most
  AlignedBuffer<std::byte> buffer_;
};

/// Decodes row `row` of a weight matrix into out[0, cols): embedding lookup.
void decode_row(const WeightView& weights, std::size_t row, float* out);

}  // namespace kvant::kernels
