#include "codec/shaping.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "codec/codebook.h"
#include "codec/lanes.h"

namespace kvant::codec {
namespace {

/// Further outside the levels (up to 255) only vectors come that the scale's largest value is too small for.
constexpr float kMostUnits = 4096;

using Floats = std::array<float, kMaxCodebookDimension>;

/// Four values in bfloat16.
Four load(const Bf16* p) {
  using FourShorts [[gnu::vector_size(8)]] = std::uint16_t;
  using FourWords [[gnu::vector_size(16)]] = std::uint32_t;
  return std::bit_cast<Four>(__builtin_convertvector(codec::load<FourShorts>(p), FourWords) << 16);
}

/// g = the sum of e_k times row k of the metric
void weigh(const Shaping& s, const float* e, float* g) {
  const std::size_t n = s.dimension;
  std::fill(g, g + n, 0.0F);
  for (std::size_t k = 0; k < n; k += kLanes) {
    const Bf16* row = s.metric.data() + k * n;
    for (std::size_t i = 0; i < n; i += kLanes) {
      Four sum = codec::load(g + i);
      sum += load(row + i) * e[k];
      sum += load(row + n + i) * e[k + 1];
      sum += load(row + 2 * n + i) * e[k + 2];
      sum += load(row + 3 * n + i) * e[k + 3];
      store(g + i, sum);
    }
  }
}

/// The bounds of the codes' cells: code c is right for z in (edges[c], edges[c + 1]].
std::array<float, 257> edges_of(const Quantizer& q) {
  std::array<float, 257> edges;
  edges[0] = -std::numeric_limits<float>::infinity();
  std::copy(q.midpoints.begin(), q.midpoints.end(), edges.begin() + 1);
  edges[q.midpoints.size() + 1] = std::numeric_limits<float>::infinity();
  return edges;
}

void sweep(const Quantizer& q, const Shaping& s, std::span<const float> edges, float* g,
           std::span<std::uint8_t> codes) {
  const std::size_t n = s.dimension;
  for (std::size_t i = 0; i < n; ++i) {
    const unsigned code = codes[i];
    const float level = static_cast<float>(q.levels[code]);
    const float z = level + g[i] * s.inverse[i];
    const unsigned next = code + (z > edges[code + 1]) - !(z > edges[code]);
    if (next == code) continue;
    codes[i] = static_cast<std::uint8_t>(next);
    const float change = level - static_cast<float>(q.levels[next]);
    const Bf16* row = s.metric.data() + i * n;
    for (std::size_t j = 0; j < n; j += kLanes) store(g + j, codec::load(g + j) + load(row + j) * change);
  }
}

void check_metric(std::span<const double> metric, std::size_t n, double damping) {
  KVANT_CHECK(
      std::has_single_bit(n) && n >= kMinCodebookDimension && n <= kMaxCodebookDimension && metric.size() == n * n,
      ErrorCode::invalid_argument, "metric: {} values for dimension {}, expected a power of two from {} to {}",
      metric.size(), n, kMinCodebookDimension, kMaxCodebookDimension);
  KVANT_CHECK(damping > 0 && damping <= 1e6, ErrorCode::invalid_argument,
              "metric: damping {}, expected more than 0 and at most 1e6", damping);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k <= i; ++k) {
      const double entry = metric[i * n + k];
      KVANT_CHECK(std::isfinite(entry), ErrorCode::invalid_argument, "metric: entry ({}, {}) is {}", i, k, entry);
      const double most = std::sqrt(metric[i * n + i]) * std::sqrt(metric[k * n + k]);
      KVANT_CHECK(i == k ? entry >= 0 : std::abs(entry) <= 1.001 * most, ErrorCode::invalid_argument,
                  "metric: entry ({}, {}) is {}, expected at most {}, as the metric is positive semidefinite", i, k,
                  entry, most);
    }
  }
}

}  // namespace

Shaping make_shaping(std::span<const double> metric, std::size_t n, double damping) {
  check_metric(metric, n, damping);
  double mean = 0;
  for (std::size_t i = 0; i < n; ++i) mean += metric[i * n + i] / static_cast<double>(n);
  Shaping s{n, std::vector<Bf16>(n * n), std::vector<float>(n)};
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t k = 0; k <= i; ++k) {
      const double entry = (mean == 0 ? 0.0 : metric[i * n + k] / mean) + (i == k ? damping : 0.0);
      s.metric[i * n + k] = s.metric[k * n + i] = to_bf16(static_cast<float>(entry));
    }
    s.inverse[i] = 1 / to_float(s.metric[i * n + i]);
  }
  return s;
}

bool encode_vector_shaped(const Quantizer& q, const Shaping& shaping, ScaleFormat format, std::span<const float> x,
                          std::span<std::uint8_t> codes, std::uint16_t& stored_scale) {
  KVANT_ASSERT(x.size() == shaping.dimension);
  if (!encode_vector(q, format, x, codes, stored_scale)) return false;
  if (stored_scale == 0) return true;
  const float factor = 1 / decode_scale(format, stored_scale);
  Floats e, g;
  for (std::size_t i = 0; i < x.size(); ++i) {
    e[i] = std::clamp(x[i] * factor, -kMostUnits, kMostUnits) - static_cast<float>(q.levels[codes[i]]);
  }
  weigh(shaping, e.data(), g.data());
  const auto edges = edges_of(q);
  for (int i = 0; i < kShapingSweeps; ++i) sweep(q, shaping, edges, g.data(), codes);
  return true;
}

}  // namespace kvant::codec
