#include "key_bias.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "terminal.h"

namespace kvant::app {
namespace {

/// What decides the error of a type: bits of a code that is signed and relative to the largest value of its block.
struct BlockType {
  const char* name;
  int bits;
};
constexpr std::array<BlockType, 5> kTypes{{{"q8_0", 8}, {"q5_1", 5}, {"q5_0", 5}, {"q4_1", 4}, {"q4_0", 4}}};

/// Squared spread of each key channel: sum over inputs of (W * norm gain)^2.
std::vector<double> spread_squared(const model::LayerWeights& layer) {
  std::vector<double> spread(layer.k.rows);
  std::vector<float> row(layer.k.cols);
  for (std::size_t r = 0; r < layer.k.rows; ++r) {
    kernels::decode_row(layer.k, r, row.data());
    for (std::size_t i = 0; i < row.size(); ++i) {
      const double w = static_cast<double>(row[i]) * layer.attention_norm[i];
      spread[r] += w * w;
    }
  }
  return spread;
}

/// Magnitude that RoPE can turn into each channel of a head.
std::vector<double> reach(std::span<const float> bias, std::size_t pairs, bool interleaved) {
  std::vector<double> out(bias.begin(), bias.end());
  for (std::size_t j = 0; j < pairs; ++j) {
    const std::size_t a = interleaved ? 2 * j : j, b = interleaved ? 2 * j + 1 : j + pairs;
    out[a] = out[b] = std::hypot(bias[a], bias[b]);
  }
  for (double& v : out) v = std::abs(v);
  return out;
}

/// Mean over the channels of the squared block maximum.
double mean_square_of_block_maxima(const std::vector<double>& values) {
  double sum = 0;
  for (std::size_t at = 0; at < values.size(); at += gguf::kBlock) {
    const std::size_t end = std::min(at + gguf::kBlock, values.size());
    const double top = *std::max_element(values.begin() + static_cast<std::ptrdiff_t>(at),
                                         values.begin() + static_cast<std::ptrdiff_t>(end));
    sum += top * top * static_cast<double>(end - at);
  }
  return sum / static_cast<double>(values.size());
}

std::string chart(const std::vector<KeyBias::Head>& heads) {
  constexpr std::size_t kColumns = 92, kMostBar = 40;
  std::size_t per_layer = 0;
  double top = 0;
  for (const KeyBias::Head& h : heads) {
    per_layer = std::max(per_layer, static_cast<std::size_t>(h.head) + 1);
    top = std::max(top, h.norm);
  }
  constexpr std::size_t kNumber = 9;  // a space and "1234.5", and the gap
  const std::size_t cell = kColumns / per_layer;
  const std::size_t width = cell > kNumber + 2 ? std::min(cell - kNumber, kMostBar) : 0;
  std::string out;
  for (const KeyBias::Head& h : heads) {
    if (h.head == 0) out += fmt::format("layer {:>3}", h.layer);
    out += fmt::format(" {:>7.1f} {}", h.norm, bar(h.norm, top, width));
    if (static_cast<std::size_t>(h.head) + 1 == per_layer) {
      out.erase(out.find_last_not_of(' ') + 1);
      out += "\n";
    }
  }
  return out;
}

}  // namespace

KeyBias analyse_key_bias(const model::ModelConfig& config, const model::Weights& weights) {
  KeyBias result;
  for (const BlockType& type : kTypes) result.verdicts.push_back({codec::parse_cache_spec(type.name)});
  for (int layer = 0; layer < config.layers; ++layer) {
    const model::LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
    if (w.k_bias.empty()) continue;
    const std::vector<double> spread = spread_squared(w);
    for (int head = 0; head < config.kv_heads; ++head) {
      const std::size_t first = static_cast<std::size_t>(head) * config.head_dim;
      const std::span<const float> bias = std::span(w.k_bias).subspan(first, config.head_dim);
      const std::vector<double> reached = reach(bias, config.rope.dims / 2, config.interleaved_rope);
      KeyBias::Head h{layer, head};
      double spread_sum = 0;
      for (std::size_t i = 0; i < config.head_dim; ++i) {
        h.norm += static_cast<double>(bias[i]) * bias[i];
        spread_sum += spread[first + i];
      }
      h.norm = std::sqrt(h.norm);
      h.largest = *std::max_element(reached.begin(), reached.end());
      h.spread = std::sqrt(spread_sum / static_cast<double>(config.head_dim));
      const double maximum = std::sqrt(mean_square_of_block_maxima(reached));
      for (std::size_t t = 0; t < kTypes.size(); ++t) {
        const double error = maximum / std::exp2(kTypes[t].bits - 1) / std::sqrt(12.0);
        KeyBias::Verdict& v = result.verdicts[t];
        if (const double ratio = error / std::max(h.spread, 1e-30); ratio > v.ratio) {
          v.layer = layer;
          v.head = head;
          v.ratio = ratio;
        }
      }
      result.heads.push_back(h);
    }
  }
  if (result.heads.empty()) result.verdicts.clear();
  return result;
}

std::string key_bias_text(const KeyBias& bias, bool colour) {
  if (bias.heads.empty()) {
    return bold("K bias      ", colour) + "none: no plain cache type is ruined by a constant in the keys\n";
  }
  std::string out = bold("Norm of the K bias per layer and KV head", colour) + "\n" + chart(bias.heads) + "\n";
  Table table({"<K cache", "error/spread", "<worst at", "<verdict"});
  for (const KeyBias::Verdict& v : bias.verdicts) {
    table.add({codec::to_string(v.spec), fmt::format("{:.2f}", v.ratio),
               fmt::format("layer {} head {}", v.layer, v.head), v.unsafe() ? "unsafe" : "ok"});
  }
  out += table.text(colour);
  out += fmt::format(
      "A constant bias makes the steps of its block large: error = largest value / 2^(bits-1) / sqrt(12) for keys "
      "that\n"
      "consist of the bias alone. Spread is what the keys vary by, estimated from the weights. A type is unsafe where\n"
      "the error exceeds {:g} times the spread of some head; f32, f16 and bf16 have no blocks and are not affected.\n"
      "Types lm and uni take the bias out exactly and are safe here: --cache-k lm4 --cache-v lm4, or a plan for a "
      "budget (kvant calibrate).\n",
      kUnsafeRatio);
  return out;
}

}  // namespace kvant::app
