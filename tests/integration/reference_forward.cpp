#include "integration/reference_forward.h"

#include <cmath>
#include <numbers>
#include <string>

#include "gguf/blocks.h"

namespace kvant::integration {
namespace {

using Values = std::vector<double>;
using Rows = std::vector<Values>;

struct Model {
  const gguf::File& file;
  std::string architecture{file.text("general.architecture")};
  std::string prefix = architecture + ".";
  std::size_t layers = file.integer(prefix + "block_count");
  std::size_t heads = file.integer(prefix + "attention.head_count");
  std::size_t kv_heads = file.integer(prefix + "attention.head_count_kv", heads);
  std::size_t width = file.integer(prefix + "embedding_length");
  std::size_t head_dim = file.integer(prefix + "attention.key_length", width / heads);
  std::size_t rotated = file.integer(prefix + "rope.dimension_count", head_dim);
  double epsilon = file.number(prefix + "attention.layer_norm_rms_epsilon");
  double base = file.number(prefix + "rope.freq_base", 10000);

  Values load(const std::string& name) const {
    const gguf::Tensor& tensor = file.tensor(name);
    std::vector<float> values(tensor.values());
    gguf::dequantize(tensor.type, tensor.data.data(), values);
    return {values.begin(), values.end()};
  }
  Values load_or(const std::string& name, std::size_t size, double fallback) const {
    return file.find_tensor(name) != nullptr ? load(name) : Values(size, fallback);
  }
};

/// y = W x + b
Rows linear(const Model& model, const std::string& name, const Rows& x) {
  const Values w = model.load(name + ".weight");
  const std::size_t inputs = x[0].size(), outputs = w.size() / inputs;
  const Values bias = model.load_or(name + ".bias", outputs, 0);
  Rows y;
  for (const Values& row : x) {
    Values out = bias;
    for (std::size_t o = 0; o < outputs; ++o) {
      for (std::size_t i = 0; i < inputs; ++i) out[o] += w[o * inputs + i] * row[i];
    }
    y.push_back(std::move(out));
  }
  return y;
}

/// Norm of x[begin, begin + weight.size())
void norm(Values& x, std::size_t begin, const Values& weight, double epsilon) {
  double sum = 0;
  for (std::size_t i = 0; i < weight.size(); ++i) sum += x[begin + i] * x[begin + i];
  const double scale = 1 / std::sqrt(sum / static_cast<double>(weight.size()) + epsilon);
  for (std::size_t i = 0; i < weight.size(); ++i) x[begin + i] *= scale * weight[i];
}

Rows normed(Rows x, const Values& weight, double epsilon) {
  for (Values& row : x) norm(row, 0, weight, epsilon);
  return x;
}

/// Angle of pair j at position p and the factor on the rotated vector's length; YaRN as its authors' section 3.
std::pair<double, double> angle(const Model& m, std::size_t j, std::size_t p) {
  const double dims = static_cast<double>(m.rotated), position = static_cast<double>(p);
  double theta = std::pow(m.base, -2.0 * static_cast<double>(j) / dims);
  if (m.file.find_tensor("rope_freqs.weight") != nullptr) theta /= m.load("rope_freqs.weight")[j];
  const std::string type(m.file.text(m.prefix + "rope.scaling.type", "none"));
  const double factor = m.file.number(m.prefix + "rope.scaling.factor", 1);
  if (type == "linear") return {position * theta / factor, 1.0};
  if (type != "yarn") return {position * theta, 1.0};
  const double original = m.file.number(m.prefix + "rope.scaling.original_context_length");
  const auto pair_of_turns = [&](double turns) {
    return dims * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(m.base));
  };
  const double low = std::max(0.0, std::floor(pair_of_turns(32)));
  const double high = std::min(dims - 1, std::ceil(pair_of_turns(1)));
  const double ramp = std::min(1.0, std::max(0.0, (static_cast<double>(j) - low) / std::max(0.001, high - low)));
  const double mixed = theta / factor * ramp + theta * (1 - ramp);
  const double extra = m.file.number(m.prefix + "rope.scaling.attn_factor", 1);
  return {position * mixed, extra * (0.1 * std::log(factor) + 1)};
}

void rotate(const Model& m, Values& x, std::size_t head, std::size_t position) {
  const bool interleaved = m.architecture == "llama";
  for (std::size_t j = 0; j < m.rotated / 2; ++j) {
    const auto [phi, size] = angle(m, j, position);
    double& a = x[head * m.head_dim + (interleaved ? 2 * j : j)];
    double& b = x[head * m.head_dim + (interleaved ? 2 * j + 1 : j + m.rotated / 2)];
    const double re = a * std::cos(phi) - b * std::sin(phi), im = a * std::sin(phi) + b * std::cos(phi);
    a = size * re;
    b = size * im;
  }
}

Rows attention(const Model& m, const std::string& block, const Rows& x) {
  Rows q = linear(m, block + "attn_q", x), k = linear(m, block + "attn_k", x);
  const Rows v = linear(m, block + "attn_v", x);
  for (std::size_t p = 0; p < x.size(); ++p) {
    for (std::size_t h = 0; h < m.heads; ++h) {
      if (m.architecture == "qwen3") norm(q[p], h * m.head_dim, m.load(block + "attn_q_norm.weight"), m.epsilon);
      rotate(m, q[p], h, p);
    }
    for (std::size_t h = 0; h < m.kv_heads; ++h) {
      if (m.architecture == "qwen3") norm(k[p], h * m.head_dim, m.load(block + "attn_k_norm.weight"), m.epsilon);
      rotate(m, k[p], h, p);
    }
  }
  Rows out(x.size(), Values(m.heads * m.head_dim));
  for (std::size_t p = 0; p < x.size(); ++p) {
    for (std::size_t h = 0; h < m.heads; ++h) {
      const std::size_t qo = h * m.head_dim, ko = h / (m.heads / m.kv_heads) * m.head_dim;
      Values scores(p + 1);
      double top = -1e300, total = 0;
      for (std::size_t t = 0; t <= p; ++t) {
        for (std::size_t i = 0; i < m.head_dim; ++i) scores[t] += q[p][qo + i] * k[t][ko + i];
        scores[t] /= std::sqrt(static_cast<double>(m.head_dim));
        top = std::max(top, scores[t]);
      }
      for (double& s : scores) total += s = std::exp(s - top);
      for (std::size_t t = 0; t <= p; ++t) {
        for (std::size_t i = 0; i < m.head_dim; ++i) out[p][qo + i] += scores[t] / total * v[t][ko + i];
      }
    }
  }
  return linear(m, block + "attn_output", out);
}

Rows feed_forward(const Model& m, const std::string& block, const Rows& x) {
  Rows gate = linear(m, block + "ffn_gate", x);
  const Rows up = linear(m, block + "ffn_up", x);
  for (std::size_t p = 0; p < gate.size(); ++p) {
    for (std::size_t i = 0; i < gate[p].size(); ++i) gate[p][i] *= up[p][i] / (1 + std::exp(-gate[p][i]));
  }
  return linear(m, block + "ffn_down", gate);
}

void add(Rows& x, const Rows& y) {
  for (std::size_t p = 0; p < x.size(); ++p) {
    for (std::size_t i = 0; i < x[p].size(); ++i) x[p][i] += y[p][i];
  }
}

}  // namespace

std::vector<std::vector<double>> reference_logits(const gguf::File& file, std::span<const std::int32_t> tokens) {
  const Model m{file};
  const Values embedding = m.load("token_embd.weight");
  Rows x;
  for (const std::int32_t token : tokens) {
    const auto row = embedding.begin() + static_cast<std::ptrdiff_t>(m.width) * token;
    x.emplace_back(row, row + static_cast<std::ptrdiff_t>(m.width));
  }
  for (std::size_t layer = 0; layer < m.layers; ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    add(x, attention(m, block, normed(x, m.load(block + "attn_norm.weight"), m.epsilon)));
    add(x, feed_forward(m, block, normed(x, m.load(block + "ffn_norm.weight"), m.epsilon)));
  }
  const bool tied = file.find_tensor("output.weight") == nullptr;
  return linear(m, tied ? "token_embd" : "output", normed(x, m.load("output_norm.weight"), m.epsilon));
}

}  // namespace kvant::integration
