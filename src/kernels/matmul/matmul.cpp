#include "kernels/matmul/matmul.h"

#include <algorithm>

#include "gguf/blocks.h"

namespace kvant::kernels {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kTaskRows = 16;

float dot(const float* a, const float* b, std::size_t n) noexcept {
  float sums[kLanes] = {};
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  }
  for (std::size_t lane = 0; i < n; ++i, ++lane) sums[lane] += a[i] * b[i];
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  return sums[0];
}

}  // namespace

Matmul::Matmul(Isa isa, Precision precision) : isa_(isa), precision_(precision) {}

void Matmul::operator()(ThreadPool& pool, MatView<const float> x, std::span<const Product> products) {
  const std::size_t needed = static_cast<std::size_t>(pool.threads()) * x.cols * sizeof(float);
  if (workspace_.size() < needed) workspace_ = AlignedBuffer<std::byte>(needed);
  auto* scratch = reinterpret_cast<float*>(workspace_.data());
  for (const Product& p : products) {
    pool.for_ranges(p.weights.rows, kTaskRows, [&](std::size_t begin, std::size_t end, int thread) {
      float* row = scratch + static_cast<std::size_t>(thread) * x.cols;
      for (std::size_t o = begin; o < end; ++o) {
        decode_row(p.weights, o, row);
        for (std::size_t r = 0; r < x.rows; ++r) p.y.data[r * p.y.stride + o] = dot(x.row(r).data(), row, x.cols);
      }
    });
  }
}

std::size_t Matmul::workspace_bytes() const noexcept { return workspace_.size_bytes(); }

void decode_row(const WeightView& weights, std::size_t row, float* out) {
  const std::size_t bytes = gguf::row_bytes(weights.type, weights.cols);
  gguf::dequantize(weights.type, weights.data + row * bytes, {out, weights.cols});
}

}  // namespace kvant::kernels
