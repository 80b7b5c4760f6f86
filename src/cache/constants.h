#pragma once
#include <cstdint>
#include <optional>
#include <vector>

#include "codec/head_code.h"
#include "codec/permutation_file.h"

namespace kvant::cache {

/// What a model's weights, or statistics of its activations, say about the keys and values of one layer before any is
/// seen. Vectors are empty where nothing is known or wanted. Channels are in NEOX order; pair j of a head is made of
/// its channels j and j + rope_pairs.
struct LayerConstants {
  /// A constant part of every key before RoPE, [kv_heads * head_dim], taken out before keys are stored.
  std::vector<float> k_anchor;
  /// The mean of the keys after RoPE, [kv_heads * head_dim], taken out of the rotated keys. Softmax does not notice a
  /// constant, so nothing is added back.
  std::vector<float> k_static;
  /// A constant part of every value, [kv_heads * head_dim], taken out before they are stored and added to the output.
  std::vector<float> v_anchor;
  /// Expected squared magnitude of each pair of a key without its anchor, [kv_heads * rope_pairs].
  std::vector<float> k_energy;
  /// The same of the queries, summed over the query heads of a KV head, [kv_heads * rope_pairs].
  std::vector<float> q_energy;
  /// What an error e of a value costs is e^T M e: M of each KV head, [kv_heads][head_dim][head_dim].
  std::vector<float> v_metric;
  /// How the heads are coded where the spec's coding is `plan`, [kv_heads].
  std::vector<codec::HeadCode> k_codes, v_codes;
  /// Of keys whose coding is `flex` where a plan says how: the layout (none: f16), and the channels of each KV head by
  /// falling importance, [kv_heads][head_dim].
  std::optional<codec::FlexSpec> k_layout = {};
  std::vector<std::uint8_t> k_channels = {};

  void set_layout(const codec::PermutationFile& file, std::size_t layer) {
    const auto channels = file.layer_permutations(layer);
    k_layout = file.layouts[layer];
    k_channels.assign(channels.begin(), channels.end());
  }
};

}  // namespace kvant::cache
