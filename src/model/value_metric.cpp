#include "model/value_metric.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "base/error.h"
#include "gguf/blocks.h"

namespace kvant::model {
namespace {

constexpr std::size_t kLanes = 8;    ///< a head that codes can store is a multiple of it
constexpr std::size_t kSamples = 4;  ///< added at a time, to pass over the metric less often

/// m [n][n] += the sum of x x^T over kSamples vectors x [n], `stride` apart, on the diagonal and (at least) below.
void add_outer_products(const float* x, std::size_t stride, std::size_t n, float* m) {
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; j += kLanes) {
      std::array<float, kLanes> sum{};
      for (std::size_t s = 0; s < kSamples; ++s) {
        const float factor = x[s * stride + i];
        for (std::size_t l = 0; l < kLanes; ++l) sum[l] += factor * x[s * stride + j + l];
      }
      for (std::size_t l = 0; l < kLanes; ++l) m[i * n + j + l] += sum[l];
    }
  }
}

}  // namespace

std::vector<std::vector<float>> value_metrics(const ModelConfig& config, const Weights& weights, ThreadPool& pool) {
  const std::size_t n = config.head_dim, kv_heads = static_cast<std::size_t>(config.kv_heads);
  KVANT_CHECK(n % kLanes == 0, ErrorCode::invalid_argument, "head_dim {}, expected a multiple of {} for coded values",
              n, kLanes);
  const std::size_t group = static_cast<std::size_t>(config.heads) / kv_heads;
  std::vector<std::vector<float>> metrics(weights.layers.size(), std::vector<float>(kv_heads * n * n));
  pool.run(weights.layers.size(), [&](std::size_t layer, int) {
    const kernels::WeightView& w = weights.layers[layer].output;
    const std::size_t rows = std::min(w.rows, std::max<std::size_t>(kMetricSamples / group, 1));
    std::vector<float> block(kSamples * w.cols);
    for (std::size_t i = 0; i < rows; i += kSamples) {
      std::fill(block.begin(), block.end(), 0.0F);
      for (std::size_t k = i; k < std::min(rows, i + kSamples); ++k) {
        gguf::dequantize(w.type, w.data + k * w.rows / rows * gguf::row_bytes(w.type, w.cols),
                         std::span(block).subspan((k - i) * w.cols, w.cols));
      }
      for (std::size_t h = 0; h < kv_heads * group; ++h) {
        add_outer_products(block.data() + h * n, w.cols, n, metrics[layer].data() + h / group * n * n);
      }
    }
    for (std::size_t h = 0; h < kv_heads; ++h) {
      float* m = metrics[layer].data() + h * n * n;
      for (std::size_t i = 0; i < n; ++i) {
        KVANT_CHECK(std::isfinite(m[i * n + i]), ErrorCode::format,
                    "tensor blk.{}.attn_output.weight: columns of KV head {} are not finite", layer, h);
        for (std::size_t j = 0; j < i; ++j) m[j * n + i] = m[i * n + j];
      }
    }
  });
  return metrics;
}

}  // namespace kvant::model
