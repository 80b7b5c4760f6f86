#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "codec/flex.h"
#include "codec/page_layout.h"
#include "codec/scale.h"
#include "gguf/types.h"

namespace kvant::codec {

/// The constant that is taken out of keys or values before they are stored (docs/formats.md).
enum class Anchor : std::uint8_t {
  none,
  fixed,  ///< "static": the mean of the keys after RoPE, wrong by more the further positions rotate; of values as mean
  bias,   ///< the bias of the projection, from the weights
  mean,   ///< the mean before RoPE, from a plan
};

/// Factors on the RoPE pairs of keys, with the inverse ones on the queries.
enum class PairScale : std::uint8_t {
  none,
  weights,    ///< from the energies that the weights predict
  automatic,  ///< "auto": weights where the predicted gain exceeds kScaleGain, none elsewhere
  plan,       ///< from the energies measured in a plan
};

/// The metric in which codes are chosen (codec/shaping.h).
enum class Shape : std::uint8_t {
  none,
  weights,  ///< values: what the output projection makes of an error; keys: the energies of the queries
};

/// Predicted gain (PairScale::automatic) above which pairs are scaled.
inline constexpr double kScaleGain = 1.3;

/// How the K or the V of a cache is stored, in text TYPE[,key=value...].
///
/// TYPE: f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0; "rot-" before an integer type: each head is rotated by an orthonormal
/// Walsh-Hadamard transform before it is stored, and the query (or, for V, the output) accordingly; lm1 .. lm6 and
/// uni2 .. uni8: codes of so many bits for the rotated head (codec/vector_codec.h); plan: what plan=FILE chose for each
/// head; for keys flex:S:H:L:JH:JL and
/// flexfix:S:H:L:JH:JL (codec/flex.h), or flex: each layer as the permutation file, or a plan of tiers, says.
///
/// Keys: anchor=none|static|bias|mean, scale=none|weights|auto|plan (keys), shape=none|weights, group=N dims with a
/// scale of their own, norm=f16|log8, sinks=N and recent=N tokens kept in f16, plan=FILE, perms=FILE (flex, instead).
/// Defaults of lm and uni: anchor=bias, scale=auto (keys), shape=weights (values), one group, f16, none; of plan:
/// anchor=mean; of other types: anchor=none, scale=none.
struct CacheSpec {
  enum class Coding : std::uint8_t {
    blocks,
    lm,
    uni,
    flex,
    plan,  ///< each head as the plan file says (codec/head_code.h)
  };

  gguf::TensorType type = gguf::TensorType::f16;  ///< of blocks
  bool rotated = false;                           ///< blocks
  Coding coding = Coding::blocks;
  int bits = 0;                   ///< of lm and uni
  FlexSpec flex = {};             ///< of flex; hi_bits 0: from the permutation file or plan
  std::string permutations = {};  ///< permutation file of flex layouts
  Anchor anchor = Anchor::none;
  PairScale scale = PairScale::none;
  std::size_t group = 0;  ///< of lm and uni; 0: as large as can be
  ScaleFormat norm = ScaleFormat::f16;
  Shape shape = Shape::none;  ///< of lm and uni
  std::size_t sinks = 0, recent = 0;
  std::string plan = {};

  bool coded() const noexcept { return coding == Coding::lm || coding == Coding::uni; }
  /// Whether channel orders, or layouts too, of flex come from a plan.
  bool planned_flex() const noexcept {
    return coding == Coding::flex && permutations.empty() && (flex.split || flex.hi_bits == 0 || !plan.empty());
  }
  friend bool operator==(const CacheSpec&, const CacheSpec&) = default;
};

/// Parses a text form for keys or values; throws invalid_argument with the list of valid types or keys.
CacheSpec parse_cache_spec(std::string_view text, PageSide side = PageSide::key);
/// The text form, without keys that have their default; parse_cache_spec(to_string(s, side), side) == s.
std::string to_string(const CacheSpec& spec, PageSide side = PageSide::key);
/// Bytes that one stored vector of head_dim values takes, for blocks (whole ones, the last padded with zeros) and flex.
std::size_t vector_bytes(const CacheSpec& spec, std::size_t head_dim);

}  // namespace kvant::codec
