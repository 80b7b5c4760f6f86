#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/checked.h"
#include "base/error.h"
#include "kernels/elementwise/elementwise.h"
#include "model/config.h"
#include "model/ops.h"

namespace kvant::model {
namespace {

/// Values below which a fork and join costs more than it saves.
constexpr std::size_t kParallelValues = std::size_t{1} << 15;

class CpuOps final : public Ops {
 public:
  CpuOps(ThreadPool& pool, Isa isa, kernels::Precision precision)
      : pool_(pool), elementwise_(kernels::elementwise(isa)), matmul_(isa, precision) {}

  Buffer allocate(std::size_t values) override {
    const std::size_t bytes = checked_add(checked_mul(values, sizeof(float), "activations"), 64, "activations");
    auto* data = static_cast<float*>(std::aligned_alloc(64, round_up(bytes, 64)));
    KVANT_CHECK(data != nullptr, ErrorCode::out_of_memory, "cannot allocate {} bytes of activations", bytes);
    return {data, [](float* p) { std::free(p); }};
  }

  void copy(MatView<const float> from, MatView<float> to) override {
    for (std::size_t r = 0; r < from.rows; ++r) std::copy_n(from.row(r).data(), from.cols, to.row(r).data());
  }

  void embed(const kernels::WeightView& table, std::span<const Token> tokens, MatView<float> out) override {
    for_rows(out, [&](std::size_t r) {
      kernels::decode_row(table, static_cast<std::size_t>(tokens[r]), out.row(r).data());
    });
  }

  void matmul(MatView<const float> x, std::span<const kernels::Matmul::Product> products) override {
    matmul_(pool_, x, products);
  }

  void rms_norm(MatView<const float> x, std::span<const float> weight, float epsilon, MatView<float> out) override {
    for_rows(x, [&](std::size_t r) {
      elementwise_.rms_norm(x.row(r).data(), weight.data(), epsilon, x.cols, out.row(r).data());
    });
  }

  void rms_norm_heads(MatView<float> x, std::span<const float> weight, float epsilon) override {
    for_heads(x, weight.size(), [&](std::size_t, float* head) {
      elementwise_.rms_norm(head, weight.data(), epsilon, weight.size(), head);
    });
  }

  void add_bias(MatView<float> x, std::span<const float> bias) override {
    for_rows(x, [&](std::size_t r) { elementwise_.add(x.row(r).data(), bias.data(), x.cols); });
  }

  void add(MatView<float> x, MatView<const float> y) override {
    for_rows(x, [&](std::size_t r) { elementwise_.add(x.row(r).data(), y.row(r).data(), x.cols); });
  }

  void deinterleave(MatView<float> x, std::size_t head_dim, std::size_t dims) override {
    for_heads(x, head_dim, [dims](std::size_t, float* head) {
      std::array<float, ModelConfig::kMaxHeadDim / 2> odd;
      for (std::size_t j = 0; j < dims / 2; ++j) {
        odd[j] = head[2 * j + 1];
        head[j] = head[2 * j];
      }
      std::copy_n(odd.data(), dims / 2, head + dims / 2);
    });
  }

  void rope_angles(const kernels::RopeFrequencies& frequencies, std::span<const std::size_t> positions,
                   float* out) override {
    const std::size_t row = 2 * frequencies.theta.size();
    for_rows(MatView<const float>(out, positions.size(), row),
             [&](std::size_t r) { kernels::rope_angles(frequencies, positions.subspan(r, 1), out + r * row); });
  }

  void rope(const float* angles, std::size_t pairs, std::size_t head_dim, MatView<float> x) override {
    for_heads(x, head_dim,
              [&](std::size_t r, float* head) { kernels::rope_apply(angles + r * 2 * pairs, pairs, head); });
  }

  void swiglu(MatView<const float> gate, MatView<const float> up, MatView<float> out) override {
    for_rows(gate, [&](std::size_t r) {
      elementwise_.silu_mul(gate.row(r).data(), up.row(r).data(), gate.cols, out.row(r).data());
    });
  }

  std::size_t workspace_bytes() const noexcept override { return matmul_.workspace_bytes(); }

 private:
  /// task(row) for every row of x, on all threads where that pays.
  template <class T, class Task>
  void for_rows(MatView<T> x, Task&& task) {
    const auto range = [&](std::size_t begin, std::size_t end, int) {
      for (std::size_t r = begin; r < end; ++r) task(r);
    };
    if (x.rows * x.cols < kParallelValues) {
      range(0, x.rows, 0);
    } else {
      pool_.for_ranges(x.rows, std::max<std::size_t>(1, kParallelValues / 4 / x.cols), range);
    }
  }

  /// task(row, head) for every head of every row of x.
  template <class Task>
  void for_heads(MatView<float> x, std::size_t head_dim, Task&& task) {
    for_rows(x, [&](std::size_t r) {
      for (std::size_t c = 0; c < x.cols; c += head_dim) task(r, x.row(r).data() + c);
    });
  }

  ThreadPool& pool_;
  const kernels::Elementwise& elementwise_;
  kernels::Matmul matmul_;
};

}  // namespace

std::unique_ptr<Ops> make_cpu_ops(ThreadPool& pool, Isa isa, kernels::Precision precision) {
  return std::make_unique<CpuOps>(pool, isa, precision);
}

}  // namespace kvant::model
