#include "model/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <unordered_set>

#include "base/error.h"
#include "base/hash.h"
#include "gguf/blocks.h"

namespace kvant::model {
namespace {

/// Finds tensors, checks them and remembers which were asked for.
class Finder {
 public:
  explicit Finder(const gguf::File& file) : file_(file) {}

  kernels::WeightView matrix(const std::string& name, std::size_t rows, std::size_t cols) {
    const gguf::Tensor& tensor = file_.tensor(name);
    check_type(tensor);
    KVANT_CHECK(tensor.shape.size() == 2 && tensor.cols() == cols && tensor.rows() == rows, ErrorCode::format,
                "{}: tensor {}: shape {}, expected [{},{}]", file_.path(), name, tensor.shape_text(), cols, rows);
    seen_.insert(tensor.name);
    return {tensor.type, tensor.data.data(), rows, cols};
  }

  Vector vector(const std::string& name, std::size_t size) {
    const gguf::Tensor& tensor = file_.tensor(name);
    check_type(tensor);
    KVANT_CHECK(tensor.values() == size && tensor.cols() == size, ErrorCode::format,
                "{}: tensor {}: shape {}, expected [{}]", file_.path(), name, tensor.shape_text(), size);
    seen_.insert(tensor.name);
    Vector values(size);
    gguf::dequantize(tensor.type, tensor.data.data(), values);
    return values;
  }

  /// Empty where the file has no such tensor.
  Vector optional_vector(const std::string& name, std::size_t size) {
    return has(name) ? vector(name, size) : Vector{};
  }

  bool has(const std::string& name) const { return file_.find_tensor(name) != nullptr; }

  /// A tensor that nobody asked for means a model of another shape, which would run and give wrong answers.
  void check_all_used(const ModelConfig& config) const {
    for (const gguf::Tensor& tensor : file_.tensors()) {
      // The factors are part of the config; older converters also wrote the RoPE frequencies of each layer.
      if (seen_.contains(tensor.name) || tensor.name.ends_with("rope_freqs.weight") ||
          tensor.name.ends_with("attn_rot_embd.weight") || tensor.name.ends_with("attention.rotary_emb.inv_freq")) {
        continue;
      }
      fail(ErrorCode::unsupported, "{}: tensor {}: not known in models of architecture {} with {} layers", file_.path(),
           printable(tensor.name), name(config.architecture), config.layers);
    }
  }

 private:
  void check_type(const gguf::Tensor& tensor) const {
    KVANT_CHECK(gguf::is_weight_type(tensor.type), ErrorCode::unsupported, "{}: tensor {}: type {} cannot be a weight",
                file_.path(), tensor.name, gguf::info(tensor.type).name);
  }

  const gguf::File& file_;
  std::unordered_set<std::string_view> seen_;
};

LayerWeights load_layer(Finder& finder, const ModelConfig& config, int index) {
  const auto tensor = [&](std::string_view suffix) { return fmt::format("blk.{}.{}", index, suffix); };
  const std::size_t e = config.embedding, q = config.q_size(), kv = config.kv_size(), f = config.feed_forward;
  LayerWeights layer;
  layer.attention_norm = finder.vector(tensor("attn_norm.weight"), e);
  layer.q = finder.matrix(tensor("attn_q.weight"), q, e);
  layer.k = finder.matrix(tensor("attn_k.weight"), kv, e);
  layer.v = finder.matrix(tensor("attn_v.weight"), kv, e);
  layer.q_bias = finder.optional_vector(tensor("attn_q.bias"), q);
  layer.k_bias = finder.optional_vector(tensor("attn_k.bias"), kv);
  layer.v_bias = finder.optional_vector(tensor("attn_v.bias"), kv);
  if (config.qk_norm) {
    layer.q_norm = finder.vector(tensor("attn_q_norm.weight"), config.head_dim);
    layer.k_norm = finder.vector(tensor("attn_k_norm.weight"), config.head_dim);
  }
  layer.output = finder.matrix(tensor("attn_output.weight"), e, q);
  layer.feed_forward_norm = finder.vector(tensor("ffn_norm.weight"), e);
  layer.gate = finder.matrix(tensor("ffn_gate.weight"), f, e);
  layer.up = finder.matrix(tensor("ffn_up.weight"), f, e);
  layer.down = finder.matrix(tensor("ffn_down.weight"), e, f);
  return layer;
}

}  // namespace

std::size_t Weights::bytes_per_token() const {
  std::size_t bytes = output.bytes();
  for (const LayerWeights& layer : layers) {
    for (const auto* matrix : {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down}) {
      bytes += matrix->bytes();
    }
  }
  return bytes;
}

Weights load_weights(const gguf::File& file, const ModelConfig& config) {
  Finder finder(file);
  Weights weights;
  weights.embedding = finder.matrix("token_embd.weight", config.vocabulary, config.embedding);
  weights.layers.reserve(static_cast<std::size_t>(config.layers));
  for (int i = 0; i < config.layers; ++i) weights.layers.push_back(load_layer(finder, config, i));
  weights.output_norm = finder.vector("output_norm.weight", config.embedding);
  weights.tied_output = !finder.has("output.weight");
  weights.output =
      weights.tied_output ? weights.embedding : finder.matrix("output.weight", config.vocabulary, config.embedding);
  finder.check_all_used(config);
  return weights;
}

std::uint64_t weights_identity(const gguf::File& file) {
  constexpr std::size_t kSample = 4096;
  std::uint64_t identity = 0;
  for (const gguf::Tensor& tensor : file.tensors()) {
    const std::string title = fmt::format("{} {} {}", tensor.name, gguf::info(tensor.type).name, tensor.shape_text());
    const std::span<const std::byte> pieces[] = {std::as_bytes(std::span(title)),
                                                 tensor.data.first(std::min(tensor.data.size(), kSample))};
    identity += hash_bytes(pieces);
  }
  return std::max<std::uint64_t>(identity, 1);
}

}  // namespace kvant::model
