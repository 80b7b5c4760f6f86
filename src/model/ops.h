#pragma once
#include <cstddef>
#include <memory>
#include <span>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "base/view.h"
#include "kernels/matmul/matmul.h"
#include "kernels/rope/rope.h"
#include "model/transformer.h"

namespace kvant::model {

/// Values in the memory of the device that the operations run on.
using Buffer = std::unique_ptr<float[], void (*)(float*)>;

/// The operations of the forward pass between the cache's append and attend. The transformer is written once against
/// these; each kind of device implements them on its own memory. Rows are tokens, all values f32. Each result row
/// depends on its input row alone, whatever the number of threads.
class Ops {
 public:
  virtual ~Ops() = default;

  /// Uninitialised memory for activations. Throws out_of_memory.
  virtual Buffer allocate(std::size_t values) = 0;

  /// out[r] = row tokens[r] of the table.
  virtual void embed(const kernels::WeightView& table, std::span<const Token> tokens, MatView<float> out) = 0;

  /// to = from
  virtual void copy(MatView<const float> from, MatView<float> to) = 0;

  /// y = x W^T for every product (kernels/matmul/matmul.h).
  virtual void matmul(MatView<const float> x, std::span<const kernels::Matmul::Product> products) = 0;

  /// RMS norm of each row of x, weight [x.cols]; out may be x.
  virtual void rms_norm(MatView<const float> x, std::span<const float> weight, float epsilon, MatView<float> out) = 0;

  /// RMS norm in place of each head, `weight.size()` channels long, of each row.
  virtual void rms_norm_heads(MatView<float> x, std::span<const float> weight, float epsilon) = 0;

  /// x[r] += bias
  virtual void add_bias(MatView<float> x, std::span<const float> bias) = 0;

  /// x += y
  virtual void add(MatView<float> x, MatView<const float> y) = 0;

  /// Brings the channels of each head from interleaved RoPE pairs (2j, 2j + 1) to NEOX order (j, j + dims/2), in place.
  virtual void deinterleave(MatView<float> x, std::size_t head_dim, std::size_t dims) = 0;

  /// cos and sin of every pair at every position (kernels/rope/rope.h): out [positions.size()][pairs][2].
  virtual void rope_angles(const kernels::RopeFrequencies& frequencies, std::span<const std::size_t> positions,
                           float* out) = 0;

  /// Rotates each head of each row in place; angles [x.rows][pairs][2].
  virtual void rope(const float* angles, std::size_t pairs, std::size_t head_dim, MatView<float> x) = 0;

  /// out = silu(gate) * up; out may be gate.
  virtual void swiglu(MatView<const float> gate, MatView<const float> up, MatView<float> out) = 0;

  /// Bytes of scratch memory held at present, allocate() aside.
  virtual std::size_t workspace_bytes() const noexcept = 0;
};

/// The operations on the processor's cores. `pool` must outlive the result.
std::unique_ptr<Ops> make_cpu_ops(ThreadPool& pool, Isa isa, kernels::Precision precision);

}  // namespace kvant::model
