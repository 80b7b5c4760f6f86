#pragma once
#include <cstddef>
#include <span>

#include "base/aligned_buffer.h"
#include "base/cpu.h"
#include "base/thread_pool.h"
#include "base/view.h"
#include "gguf/types.h"

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
/// fast       straight on the quantized blocks: int8 activations at decode, bf16 or int8 tiles at prefill
enum class Precision { reference, fast };

/// Products of activations with weight matrices, y = x W^T. Results depend on isa and precision and on nothing else:
/// not on the number of threads, nor on how rows of x are batched together (a row alone gives the bits it gives among
/// others, in reference precision; fast precision may differ between up to kDecodeRows rows and more).
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
  Isa isa_;
  Precision precision_;
  AlignedBuffer<std::byte> workspace_;
};

/// Decodes row `row` of a weight matrix into out[0, cols): embedding lookup.
void decode_row(const WeightView& weights, std::size_t row, float* out);

}  // namespace kvant::kernels
