#include "model/value_metric.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "gguf/blocks.h"

namespace kvant::model {
namespace {

/// m [n][n] += x x^T, below and on the diagonal
void add_outer_product(const float* x, std::size_t n, float* m) {
  for (std::size_t i = 0; i < n; ++i) {
    const float xi = x[i];
    float* row = m + i * n;
    for (std::size_t j = 0; j <= i; ++j) row[j] += xi * x[j];
  }
}

}  // namespace

std::vector<std::vector<float>> value_metrics(const ModelConfig& config, const Weights& weights, ThreadPool& pool) {
  const std::size_t n = config.head_dim, kv_heads = static_cast<std::size_t>(config.kv_heads);
  const std::size_t group = static_cast<std::size_t>(config.heads) / kv_heads;
  std::vector<std::vector<float>> metrics(weights.layers.size(), std::vector<float>(kv_heads * n * n));
  pool.run(weights.layers.size(), [&](std::size_t layer, int) {
    const kernels::WeightView& w = weights.layers[layer].output;
    const std::size_t rows = std::min(w.rows, kMetricRows);
    std::vector<float> row(w.cols);
    for (std::size_t i = 0; i < rows; ++i) {
      const std::size_t r = i * w.rows / rows;
      gguf::dequantize(w.type, w.data + r * gguf::row_bytes(w.type, w.cols), row);
      for (std::size_t h = 0; h < kv_heads * group; ++h) {
        add_outer_product(row.data() + h * n, n, metrics[layer].data() + h / group * n * n);
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
