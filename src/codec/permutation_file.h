#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "codec/flex.h"

namespace kvant::codec {

/// A calibration file of the earlier system (version 1): for each layer and KV head its channels by falling importance,
/// and optionally for each layer the recommended key type and `flex` layout. "Layers" are those that have keys and
/// values; layer_map gives the layer of each layer of the model.
///
/// Bytes, little-endian: u32 magic 0x54515045, version 1, layers, kv_heads, head_dim, pre_rope, model layers; i32
/// layer_map[model layers]; u8 permutations[layers][kv_heads][head_dim]; then, optionally, u32 0x54514c54, layers, i32
/// types[layers], f32 outlier_percent[layers]; then, optionally, u32 0x43465154, layers, and for each layer u8 split,
/// hi_bits, lo_bits, 0, hi_signs, lo_signs, i16 block bytes (all 0 for a layer kept in f16).
struct PermutationFile {
  static constexpr std::int32_t kTypeF16 = 1, kTypeFlex = 70, kMostType = 70;

  struct LayerType {
    std::int32_t type = kTypeF16;  ///< an id of the earlier system
    float outlier_percent = 0;     ///< share of the variance in the first quarter of the channels

    friend bool operator==(const LayerType&, const LayerType&) = default;
  };

  std::size_t layers = 0, kv_heads = 0, head_dim = 0;
  bool pre_rope = false;                         ///< what the calibration looked at; informative
  std::vector<std::int32_t> layer_map;           ///< -1: the layer of the model has no keys
  std::vector<std::uint8_t> permutations;        ///< [layers][kv_heads][head_dim]
  std::vector<LayerType> types;                  ///< `layers` of them, or none
  std::vector<std::optional<FlexSpec>> layouts;  ///< `layers` of them, or none; nullopt: f16

  std::span<const std::uint8_t> permutation(std::size_t layer, std::size_t head) const {
    return layer_permutations(layer).subspan(head * head_dim, head_dim);
  }
  /// Of all heads of a layer, [kv_heads][head_dim].
  std::span<const std::uint8_t> layer_permutations(std::size_t layer) const {
    return std::span(permutations).subspan(layer * kv_heads * head_dim, kv_heads * head_dim);
  }
  friend bool operator==(const PermutationFile&, const PermutationFile&) = default;
};

/// Parses untrusted bytes. Every field is checked: an accepted file is valid as a whole, and
/// serialize_permutation_file gives the same bytes. Throws format (unsupported for another version or a residual code),
/// with a line that starts with `name` and tells the field and both values.
PermutationFile parse_permutation_file(std::span<const std::byte> bytes, const std::string& name);

/// The bytes of a file. Throws like parse_permutation_file when `file` is not valid; flexfix layouts have no form.
std::vector<std::byte> serialize_permutation_file(const PermutationFile& file, const std::string& name);

/// Whole files; throw io as well.
PermutationFile read_permutation_file(const std::filesystem::path& path);
void write_permutation_file(const std::filesystem::path& path, const PermutationFile& file);

/// Throws invalid_argument, naming the field and both values, when the file was made for a model of another shape.
void check_fits_model(const PermutationFile& file, const std::string& name, std::size_t model_layers,
                      std::size_t kv_heads, std::size_t head_dim);

}  // namespace kvant::codec
