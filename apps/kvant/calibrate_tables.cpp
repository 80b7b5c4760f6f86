#include "calibrate_tables.h"

#include <fmt/format.h>

#include <cmath>
#include <span>

#include "calib/concentration.h"
#include "model/cache_constants.h"
#include "terminal.h"

namespace kvant::app {
namespace {

double norm(std::span<const float> values) {
  double sum = 0;
  for (const float x : values) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

double sum(std::span<const float> values) {
  double total = 0;
  for (const float x : values) total += x;
  return total;
}

/// Factor by which scaling pairs with s_j^4 = wanted_q / wanted_k lowers the error of logits, for the energies k and q:
/// (sum q)(sum k) / ((sum q / s^2)(sum s^2 k)). Pairs without energy are left as they are.
double gain(std::span<const float> k, std::span<const float> q, std::span<const float> wanted_k,
            std::span<const float> wanted_q) {
  double queries = 0, keys = 0;
  for (std::size_t j = 0; j < k.size(); ++j) {
    const bool scaled = wanted_k[j] > 0 && wanted_q[j] > 0;
    const double square = scaled ? std::sqrt(static_cast<double>(wanted_q[j]) / wanted_k[j]) : 1;
    queries += q[j] / square;
    keys += k[j] * square;
  }
  return queries > 0 && keys > 0 ? sum(q) * sum(k) / (queries * keys) : 1;
}

}  // namespace

std::string statistics_table(engine::Engine& engine, const codec::Plan& plan, bool colour) {
  const model::ModelConfig& config = engine.config();
  const auto predicted = model::cache_constants(config, engine.weights(), codec::parse_cache_spec("lm4,scale=weights"),
                                                {}, nullptr, nullptr, engine.pool());
  const std::size_t d = config.head_dim, pairs = config.rope.dims / 2;
  Table out(
      {"layer", "head", "bias", "mean", "deviation", "gain, plan", "gain, weights", "raw %", "centred %", "pooled %"});
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const codec::LayerStatistics& s = plan.layers[layer];
    const std::vector<float> k_energy = codec::pair_energies(s.k_moment, plan.model);
    const std::vector<float> q_energy = codec::pair_energies(s.q_moment, plan.model);
    const model::Vector& bias = engine.weights().layers[layer].k_bias;
    const calib::Concentration share = calib::concentration(plan, layer, bias);
    for (std::size_t head = 0; head < plan.model.kv_heads; ++head) {
      const auto of_pairs = [&](const std::vector<float>& v) { return std::span(v).subspan(head * pairs, pairs); };
      const auto k = of_pairs(k_energy), q = of_pairs(q_energy);
      const cache::LayerConstants& weights = predicted[layer];
      out.add({fmt::format("{}", layer), fmt::format("{}", head),
               bias.empty() ? "-" : fmt::format("{:.2f}", norm(std::span(bias).subspan(head * d, d))),
               fmt::format("{:.2f}", norm(std::span(s.k_mean).subspan(head * d, d))),
               fmt::format("{:.2f}", std::sqrt(sum(k))), fmt::format("{:.2f}", gain(k, q, k, q)),
               fmt::format("{:.2f}", gain(k, q, of_pairs(weights.k_energy), of_pairs(weights.q_energy))),
               fmt::format("{:.1f}", share.raw), fmt::format("{:.1f}", share.centred),
               fmt::format("{:.1f}", share.pooled)});
    }
  }
  return out.text(colour) +
         "Norms of each KV head's keys before RoPE: K bias, mean, standard deviation; and the factor by which scaling "
         "of\n"
         "their pairs lowers the error of the attention logits, with these statistics and with what the weights "
         "predict.\nOutliers of the layer: share of the keys' energy in the strongest quarter of the channels, as they "
         "are stored (raw),\nwithout their mean (centred), and as an earlier tool pooled them.\n";
}

std::string tiers_table(const codec::PermutationFile& file, bool colour) {
  Table out({"layer", "outliers, %", "layout", "bits"});
  double bits = 0;
  for (std::size_t layer = 0; layer < file.layers; ++layer) {
    const auto& layout = file.layouts[layer];
    const double layer_bits =
        layout ? 8.0 * static_cast<double>(codec::flex_bytes(*layout)) / static_cast<double>(file.head_dim) : 16.0;
    bits += layer_bits / static_cast<double>(file.layers);
    out.add({fmt::format("{}", layer), fmt::format("{:.1f}", file.types[layer].outlier_percent),
             layout ? codec::to_string(*layout) : "f16", fmt::format("{:.3f}", layer_bits)});
  }
  return "\n" + out.text(colour) + fmt::format("Bits of a key value: {:.3f} over all layers.\n\n", bits);
}

}  // namespace kvant::app
