#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
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
  std::size_t rope_original_context = 0;  ///< 0 except with yarn
  double rope_attention_factor = 1;
  std::uint64_t rope_details = 0;      ///< XXH3-64 of YaRN's betas (f64) and the frequency factors (f32)
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

/// Parses an untrusted file: a GGUF file whose key kvant.plan.version is 1. Keys and tensors that this version does not
/// know are passed over; whatever changes the meaning of those it knows has another version. Everything is checked:
/// sizes, shapes, and that all numbers are finite and no energy is negative. Throws format (unsupported for another
/// version), with a line that starts with `name` and tells the key or tensor and both values.
Plan parse_plan(std::span<const std::byte> bytes, const std::string& name);
/// The bytes of a plan. Throws invalid_argument, naming the field, when the plan is not valid.
std::vector<std::byte> serialize_plan(const Plan& plan);

/// The same with files; throw io as well. A file is written whole or not at all.
Plan read_plan(const std::filesystem::path& path);
void write_plan(const std::filesystem::path& path, const Plan& plan);

/// Throws invalid_argument, naming the field and both values, when the plan, called `name`, was made for another model.
void check_fits(const Plan& plan, const std::string& name, const PlanIdentity& model);

}  // namespace kvant::codec
