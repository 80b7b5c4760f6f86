#include "model/value_metric.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "base/error.h"
#include "codec/lanes.h"
#include "gguf/blocks.h"
#include "kernels/simd/target.h"

namespace kvant::model {
namespace {

constexpr std::size_t kStep = 8;     ///< columns at a time; a head that codes can store is a multiple of it
constexpr std::size_t kRows = 4;     ///< rows that share their loads
constexpr std::size_t kSamples = 4;  ///< added at a time, to pass over the metric less often

/// m [n][n] += the sum of x x^T over kSamples vectors x [n], `stride` apart, on the diagonal and (at least) below.
void add_outer_products(const float* x, std::size_t stride, std::size_t n, float* m) {
  using codec::Four;
  for (std::size_t i = 0; i < n; i += kRows) {
    for (std::size_t j = 0; j < i + kRows; j += kStep) {
      Four sums[kRows][2] = {};
      KVANT_UNROLL
      for (std::size_t s = 0; s < kSamples; ++s) {
        const float* sample = x + s * stride;
        const Four low = codec::load(sample + j), high = codec::load(sample + j + codec::kLanes);
        KVANT_UNROLL
        for (std::size_t r = 0; r < kRows; ++r) {
          sums[r][0] += sample[i + r] * low;
          sums[r][1] += sample[i + r] * high;
        }
      }
      KVANT_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        float* to = m + (i + r) * n + j;
        codec::store(to, codec::load(to) + sums[r][0]);
        codec::store(to + codec::kLanes, codec::load(to + codec::kLanes) + sums[r][1]);
      }
    }
  }
}

}  // namespace

std::vector<std::vector<float>> value_metrics(const ModelConfig& config, const Weights& weights, ThreadPool& pool) {
  const std::size_t n = config.head_dim, kv_heads = static_cast<std::size_t>(config.kv_heads);
  KVANT_CHECK(n % kStep == 0, ErrorCode::invalid_argument, "head_dim {}, expected a multiple of {} for coded values", n,
              kStep);
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
