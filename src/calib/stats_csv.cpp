#include "calib/stats_csv.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace kvant::calib {
namespace {

/// ranks[i]: how many channels come before channel i by falling weight.
std::vector<std::size_t> ranks_of(const std::vector<double>& weights) {
  std::vector<std::size_t> order(weights.size()), ranks(weights.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return weights[a] > weights[b]; });
  for (std::size_t i = 0; i < order.size(); ++i) ranks[order[i]] = i;
  return ranks;
}

/// The part of a head's code that holds most of a channel.
std::size_t part_of(const codec::HeadCode& code, std::size_t channel, std::size_t head_dim) {
  std::size_t best = 0, first = 0;
  double most = -1;
  for (std::size_t p = 0; p < code.parts.size(); ++p) {
    double sum = 0;
    for (std::size_t i = first; i < first + code.parts[p].dims; ++i) {
      const double t = to_float(code.transform[i * head_dim + channel]);
      sum += t * t;
    }
    first += code.parts[p].dims;
    if (sum > most) {
      most = sum;
      best = p;
    }
  }
  return best;
}

}  // namespace

std::string statistics_csv(const codec::Plan& plan) {
  const std::size_t n = plan.model.head_dim;
  std::string text = "layer,head,channel,mean,std,second_moment,query_weight,rank,part\n";
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const codec::LayerStatistics& s = plan.layers[layer];
    for (std::size_t head = 0; head < plan.model.kv_heads; ++head) {
      const auto diagonal = [&](const std::vector<float>& packed, std::size_t i) {
        return packed[head * codec::packed_size(n) + codec::packed_size(i + 1) - 1];
      };
      std::vector<double> weights(n);
      for (std::size_t i = 0; i < n; ++i) {
        weights[i] = static_cast<double>(diagonal(s.k_moment, i)) * diagonal(s.q_moment, i);
      }
      const std::vector<std::size_t> ranks = ranks_of(weights);
      const bool coded = !plan.codes.empty() && !plan.codes[layer].keys.empty();
      for (std::size_t i = 0; i < n; ++i) {
        const float mean = s.k_mean[head * n + i], variance = std::max(diagonal(s.k_moment, i), 0.0F);
        text += fmt::format("{},{},{},{},{},{},{},{},{}\n", layer, head, i, mean, std::sqrt(variance),
                            variance + mean * mean, diagonal(s.q_moment, i), ranks[i],
                            coded ? fmt::format("{}", part_of(plan.codes[layer].keys[head], i, n)) : "");
      }
    }
  }
  return text;
}

}  // namespace kvant::calib
