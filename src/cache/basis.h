#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "cache/constants.h"
#include "codec/spec.h"
#include "kernels/anchor/anchor.h"

namespace kvant::cache {

/// The basis in which the keys or values of one layer and KV head are stored, before any rotation: what is taken out of
/// them, and the factors on their pairs. Vectors have head_dim values; empty ones mean zero or one.
struct HeadBasis {
  std::vector<float> anchor;          ///< taken out before RoPE
  std::vector<float> mean;            ///< keys: taken out after RoPE
  std::vector<float> scale, inverse;  ///< keys: factors after RoPE, and those of the queries
  kernels::AnchorPairs pairs;         ///< keys: what the anchor adds to the logits
  double gain = 1;                    ///< keys: predicted gain of the scale, whether or not it is used

  /// k before RoPE -> x. angles [pairs][2] cos and sin of the token.
  void key(std::span<const float> k, const float* angles, std::size_t rope_pairs, float* x) const noexcept;
  /// q after RoPE, in place
  void query(std::span<float> q) const noexcept;
  /// v -> x
  void value(std::span<const float> v, float* x) const noexcept;
  /// what attention made of stored values, in place
  void output(std::span<float> x) const noexcept;
  std::size_t constant_bytes() const noexcept;
};

/// The basis for keys of KV head `head`.
///
/// Of the anchor, pairs are kept that are worth their time: slow ones cost little; of the fast ones, and of all if that
/// is enough, the smallest are left in the keys while they add at most 2 % to the expected energy of a stored key.
/// scale: s_j^4 = E|Q_j|^2 / E|X_j|^2 (pair energies of the queries and of what is left of the keys), rounded to powers
/// of 2^(1/16) so that no rounding of the energies reaches stored bytes; its predicted gain is
/// (sum E|Q|^2)(sum E|X|^2) / (sum sqrt(E|Q|^2 E|X|^2))^2.
HeadBasis make_key_basis(const codec::CacheSpec& spec, const LayerConstants& constants, std::size_t head,
                         std::size_t head_dim, const kernels::AnchorAngles* angles);
/// The basis for values.
HeadBasis make_value_basis(const codec::CacheSpec& spec, const LayerConstants& constants, std::size_t head,
                           std::size_t head_dim);

}  // namespace kvant::cache
