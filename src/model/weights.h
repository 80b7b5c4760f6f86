#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/matmul/matmul.h"
#include "model/config.h"

namespace kvant::model {

/// A vector of the file, converted to f32 (norms and biases); empty where the model has none.
using Vector = std::vector<float>;

/// Weights of one layer. Shapes as [outputs, inputs]; E = embedding, Q = heads * head_dim, KV = kv_heads * head_dim,
/// F = feed_forward.
struct LayerWeights {
  Vector attention_norm;          // [E]
  kernels::WeightView q, k, v;    // [Q, E], [KV, E], [KV, E]
  Vector q_bias, k_bias, v_bias;  // [Q], [KV], [KV] or empty
  Vector q_norm, k_norm;          // [head_dim] or empty
  kernels::WeightView output;     // [E, Q]
  Vector feed_forward_norm;       // [E]
  kernels::WeightView gate, up;   // [F, E]
  kernels::WeightView down;       // [E, F]
};

/// All weights of a model; matrices are views of the mapped file.
struct Weights {
  kernels::WeightView embedding;  // [vocabulary, E]
  std::vector<LayerWeights> layers;
  Vector output_norm;          // [E]
  kernels::WeightView output;  // [vocabulary, E]; the embedding again where the head is tied
  bool tied_output = false;

  /// Bytes of weights that one decoded token reads (all matrices once, the embedding only where it is the head).
  std::size_t bytes_per_token() const;
};

/// Finds every tensor and checks its type and shape against the config. Throws format naming file, tensor and both
/// shapes.
Weights load_weights(const gguf::File& file, const ModelConfig& config);

/// A number that tells files of weights apart without reading all of them: of XXH3-64 of each tensor's name, type and
/// shape and the first 4 KiB of its data, in any order. Never 0.
std::uint64_t weights_identity(const gguf::File& file);

}  // namespace kvant::model
