#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "cache/constants.h"
#include "codec/spec.h"
#include "kernels/anchor/anchor.h"
#include "kernels/linear/linear.h"

namespace kvant::cache {

inline constexpr std::size_t kMaxHeadDim = 1024;

/// Memory for the linear maps of all heads of a cache, side by side. A layer's weights throw its maps out of the near
/// caches before every token: large pages spare them the misses of the TLB.
class Maps {
 public:
  Maps() = default;
  /// Room for all maps that the constants name.
  explicit Maps(std::span<const LayerConstants> constants);
  /// The next `values` of it.
  std::span<Bf16> take(std::size_t values);

 private:
  AlignedBuffer<Bf16> values_;
  std::size_t taken_ = 0;
};

/// The basis in which the keys or values of one layer and KV head are stored, before any rotation: what is taken out of
/// them, the factors on their pairs, and a linear map. Vectors have head_dim values, empty ones mean zero or one; a map
/// makes coded_dims(head_dim) of head_dim values.
struct HeadBasis {
  std::vector<float> anchor;          ///< taken out before RoPE
  std::vector<float> mean;            ///< keys: taken out after RoPE
  std::vector<float> scale, inverse;  ///< keys: factors after RoPE, and those of the queries
  kernels::AnchorPairs pairs;         ///< keys: what the anchor adds to the logits
  double gain = 1;                    ///< keys: predicted gain of the scale, whether or not it is used
  /// T and U of a HeadCode (codec/head_code.h) as LinearArgs::m, both or none: T^T; for keys U^T, for values U.
  std::span<const Bf16> transform, inverse_transform;
  kernels::LinearFunction linear = nullptr;

  /// k before RoPE -> x. angles [pairs][2] cos and sin of the token.
  void key(std::span<const float> k, const float* angles, std::size_t rope_pairs, float* x) const noexcept;
  /// Queries after RoPE, q [rows][head_dim] -> x [rows][stride], for all of them at once as the map is large.
  void queries(const float* q, std::size_t rows, std::size_t head_dim, float* x, std::size_t stride) const noexcept;
  /// v -> x
  void value(std::span<const float> v, float* x) const noexcept;
  /// What attention made of stored values, x [rows][stride] -> out [rows][head_dim].
  void outputs(const float* x, std::size_t stride, std::size_t rows, std::size_t head_dim, float* out) const noexcept;
  std::size_t constant_bytes() const noexcept;
};

/// The basis for keys of KV head `head`.
///
/// Of the anchor, pairs are kept that are worth their time: slow ones cost little; of the fast ones, and of all if that
/// is enough, the smallest are left in the keys while they add at most 2 % to the expected energy of a stored key, 0.5
/// % where a plan has mapped the keys: there energies are those after the map, of pairs turned through all angles.
/// The maps are in `maps`. scale, where there is no map: s_j^4 = E|Q_j|^2 / E|X_j|^2 (pair energies of the queries and
/// of what is left of the keys), rounded to powers of 2^(1/16) so that no rounding of the energies reaches stored
/// bytes; its predicted gain is (sum E|Q|^2)(sum E|X|^2) / (sum sqrt(E|Q|^2 E|X|^2))^2.
HeadBasis make_key_basis(const codec::CacheSpec& spec, const LayerConstants& constants, std::size_t head,
                         std::size_t head_dim, const kernels::AnchorAngles* angles, Maps& maps, Isa isa);
/// The basis for values.
HeadBasis make_value_basis(const codec::CacheSpec& spec, const LayerConstants& constants, std::size_t head,
                           std::size_t head_dim, Maps& maps, Isa isa);

}  // namespace kvant::cache
