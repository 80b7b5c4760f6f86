#include "calib/concentration.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace kvant::calib {
namespace {

double square(double x) { return x * x; }

/// Adds a head's channels to the sums of a layer.
struct Share {
  double strongest = 0, all = 0;

  void add(std::vector<double> channels) {
    std::sort(channels.begin(), channels.end(), std::greater<>());
    const auto quarter = channels.begin() + static_cast<std::ptrdiff_t>(channels.size() / 4);
    strongest += std::accumulate(channels.begin(), quarter, 0.0);
    all += std::accumulate(channels.begin(), channels.end(), 0.0);
  }
  double percent() const { return all > 0 ? 100 * strongest / all : 0; }
};

/// The diagonal of a head's packed lower triangle.
std::vector<double> diagonal(const std::vector<float>& packed, std::size_t head, std::size_t n) {
  std::vector<double> values(n);
  const float* row = packed.data() + head * codec::packed_size(n);
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = row[i];
    row += i + 1;
  }
  return values;
}

}  // namespace

std::vector<double> rotated_moments(const codec::Plan& plan, std::size_t layer, std::size_t head) {
  const codec::LayerStatistics& s = plan.layers[layer];
  const std::size_t n = plan.model.head_dim, pairs = plan.model.rope_dims / 2;
  const float* mean = s.k_mean.data() + head * n;
  const float* rotated = s.k_mean_rotated.data() + head * n;
  const std::vector<double> variance = diagonal(s.k_moment, head, n);
  std::vector<double> moments(n);
  for (std::size_t i = 0; i < n; ++i) moments[i] = square(rotated[i]) + (i < 2 * pairs ? 0 : variance[i]);
  for (std::size_t j = 0; j < pairs; ++j) {
    const double whole = square(mean[j]) + square(mean[j + pairs]) + variance[j] + variance[j + pairs];
    const double left = std::max(0.0, whole - moments[j] - moments[j + pairs]) / 2;
    moments[j] += left;
    moments[j + pairs] += left;
  }
  return moments;
}

Concentration concentration(const codec::Plan& plan, std::size_t layer, std::span<const float> bias) {
  const codec::LayerStatistics& s = plan.layers[layer];
  const std::size_t n = plan.model.head_dim;
  Share raw, centred, pooled;
  for (std::size_t head = 0; head < plan.model.kv_heads; ++head) {
    const std::vector<double> variance = diagonal(s.k_moment, head, n), after = rotated_moments(plan, layer, head);
    std::vector<double> mixed(n);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t c = head * n + i;
      const double mean = s.k_mean[c], free = mean - (bias.empty() ? 0 : bias[c]), rotated = s.k_mean_rotated[c];
      const double moment = (square(free) + square(mean) + 2 * variance[i] + after[i]) / 3;
      mixed[i] = std::max(0.0, moment - square((free + mean + rotated) / 3));
    }
    raw.add(after);
    centred.add(variance);
    pooled.add(mixed);
  }
  return {raw.percent(), centred.percent(), pooled.percent()};
}

}  // namespace kvant::calib
