#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace kvant::codec {

/// What a plan was made for. A plan fits every file of the same model, whatever the types of its weights.
struct PlanIdentity {
  std::string architecture;
  std::size_t layers = 0, embedding = 0, heads = 0, kv_heads = 0, head_dim = 0;
  std::size_t rope_dims = 0;
  double rope_base = 0;
  std::string rope_scaling;  ///< "none", "linear" or "yarn"
  double rope_factor = 1;
  std::size_t rope_original_context = 0;  ///< 0 without scaling
  double rope_attention_factor = 1;
  std::uint64_t rope_frequencies = 0;  ///< XXH3-64 of the angles per position, f64 little-endian
  std::uint64_t key_biases = 0;        ///< XXH3-64 of the K biases of all layers, f32 little-endian
  std::uint64_t attention_shapes = 0;  ///< XXH3-64 of the attention tensors' names and shapes

  friend bool operator==(const PlanIdentity&, const PlanIdentity&) = default;
};

/// The text that statistics were taken from.
struct PlanCorpus {
  std::string name;
  std::uint64_t hash = 0;   ///< XXH3-64 of the tokens, i32 little-endian
  std::size_t tokens = 0;   ///< that were looked at
  std::size_t context = 0;  ///< of each window

  friend bool operator==(const PlanCorpus&, const PlanCorpus&) = default;
};

/// Statistics of one layer over a text. Channels are in NEOX order: pair j of a head is its channels j and j + pairs;
/// pairs = rope_dims / 2.
struct LayerStatistics {
  std::vector<float> k_mean;          ///< of the keys before RoPE, [kv_heads * head_dim]
  std::vector<float> k_mean_rotated;  ///< of the keys after RoPE, [kv_heads * head_dim]
  std::vector<float> v_mean;          ///< of the values, [kv_heads * head_dim]
  /// E|K_j - E K_j|^2 of the pairs before RoPE, [kv_heads * pairs]
  std::vector<float> k_energy;
  /// E|Q_j|^2 of the pairs after RoPE, summed over the query heads of a KV head, [kv_heads * pairs]
  std::vector<float> q_energy;

  friend bool operator==(const LayerStatistics&, const LayerStatistics&) = default;
};

/// What calibration knows about a model.
struct Plan {
  PlanIdentity model;
  PlanCorpus corpus;
  std::vector<LayerStatistics> layers;  ///< model.layers of them

  friend bool operator==(const Plan&, const Plan&) = default;
};

}  // namespace kvant::codec
