#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codec/head_code.h"
#include "codec/permutation_file.h"

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

/// Statistics of one layer over a text. Channels are in NEOX order: pair j of a head is made of its channels j and
/// j + rope_dims / 2. Second moments are lower triangles, row after row, of packed_size(head_dim) values for each KV
/// head.
struct LayerStatistics {
  std::vector<float> k_mean;          ///< of the keys before RoPE, [kv_heads * head_dim]
  std::vector<float> k_mean_rotated;  ///< of the keys after RoPE, [kv_heads * head_dim]
  std::vector<float> v_mean;          ///< of the values, [kv_heads * head_dim]
  std::vector<float> k_moment;        ///< of the keys before RoPE about their mean, [kv_heads][packed]
  std::vector<float> q_moment;        ///< of the queries before RoPE, about zero, summed over a KV head's query heads
  std::vector<float> v_moment;        ///< of the values about their mean, [kv_heads][packed]
  /// What one unit of predicted error of this layer's keys, or values, adds to the divergence of the model's output
  /// (calib/search.h); 0: not measured.
  double k_sensitivity = 0, v_sensitivity = 0;

  friend bool operator==(const LayerStatistics&, const LayerStatistics&) = default;
};

inline constexpr std::size_t packed_size(std::size_t n) { return n * (n + 1) / 2; }
/// Sum of the diagonal entries of both channels of each RoPE pair, [kv_heads * rope_dims / 2]: the energies of pairs,
/// the same before and after RoPE.
std::vector<float> pair_energies(std::span<const float> moment, const PlanIdentity& model);

/// How the heads of one layer are coded, [kv_heads], or none.
struct LayerCodes {
  std::vector<HeadCode> keys, values;

  friend bool operator==(const LayerCodes&, const LayerCodes&) = default;
};

/// One comparison of the planned cache with an f16 cache, under the same weights.
struct Certificate {
  std::string corpus;      ///< name of the text
  std::uint64_t hash = 0;  ///< of its tokens, as PlanCorpus
  std::size_t context = 0, tokens = 0;
  double kld_mean = 0, kld_error = 0;  ///< mean divergence in nats and its standard error
  double kld_p99 = 0;
  double top1 = 0;                                           ///< share of tokens with the same most likely next one
  double ppl_ratio = 0, ppl_ratio_lo = 0, ppl_ratio_hi = 0;  ///< paired, with its 95 % interval

  friend bool operator==(const Certificate&, const Certificate&) = default;
};

/// What calibration knows about a model and what it has chosen.
struct Plan {
  PlanIdentity model;
  PlanCorpus corpus;
  std::vector<LayerStatistics> layers;         ///< model.layers of them
  std::vector<LayerCodes> codes;               ///< model.layers of them, or none: statistics only
  std::string k_type = "f16", v_type = "f16";  ///< of sides that `codes` leaves out, as CacheSpec texts
  /// Of the keys instead of codes: a flex layout for each layer and its heads' order of channels, complete and of this
  /// model.
  std::optional<PermutationFile> layouts;
  std::string goal;           ///< what was asked for, as text: "--bits 3 --bits-v 4"
  std::size_t positions = 0;  ///< that keys are coded for: the contexts of the plan; 0: none
  std::size_t recent = 0;     ///< tokens before each query in f16, of sides that `codes` has
  double trust = 1;           ///< in the sensitivities, 0 to 1: what served best (calib/search.h)
  double predicted_kld = 0;   ///< what the search expects; 0: nothing
  std::vector<Certificate> certificates;

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
