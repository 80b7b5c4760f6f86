#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/cpu.h"
#include "kernels/registry.h"
#include "kernels/rope/rope.h"

/// What a constant taken out of all keys before RoPE (an anchor, docs/formats.md) adds to the logits:
///
///     alpha(p) = q . R_p a = sum over pairs j of Re(conj(Q_j) A_j m e^{i p theta_j})
///
/// with Q_j = q_j + i q_{j + pairs} of the rotated query, A_j likewise of the anchor, and m the magnitude of the
/// model's RoPE. Computed page by page of 64 tokens: slow pairs, whose angle changes little over half a page, through a
/// common polynomial in the position within the page; fast ones directly.
namespace kvant::kernels {

/// Coefficients of the polynomial: degree 7.
inline constexpr std::size_t kAnchorTerms = 8;

/// Pairs are padded to a multiple of this many, and blocks of as many share the degree of their polynomials.
inline constexpr std::size_t kAnchorBlock = 16;
/// Tokens on either side of a page's middle.
inline constexpr std::size_t kAnchorHalf = 32;

/// Angles of a model's RoPE at the pages of a context; one for all layers and KV heads. Slow pairs are those of
/// theta <= slow_theta(7); their polynomial's error is below 3e-8 * |Q_j A_j|.
class AnchorAngles {
 public:
  /// The largest angle per position at which the polynomial of this degree interpolates e^{i theta (t - 31.5)}, t < 64,
  /// with an error of at most 3e-8.
  static double slow_theta(int degree) noexcept;

  /// positions 0 .. capacity - 1. Angles are formed in double.
  AnchorAngles(const RopeFrequencies& frequencies, std::size_t capacity);

  std::size_t pairs() const noexcept { return pairs_; }
  std::size_t padded_pairs() const noexcept { return padded_; }  ///< a multiple of 16
  bool slow(std::size_t pair) const noexcept { return slow_[pair]; }
  /// m cos and m sin of theta_j * (64 page + 31.5), [padded pairs] each
  const float* cosines(std::size_t page) const noexcept { return phases_.data() + page * 2 * padded_; }
  const float* sines(std::size_t page) const noexcept { return cosines(page) + padded_; }
  /// Coefficient of u^n, u = (t - 31.5) / 31.5, of cos(31.5 theta_j u) (n even) or sin(31.5 theta_j u) (n odd),
  /// [padded pairs]; 0 for fast pairs.
  const float* terms(std::size_t n) const noexcept { return terms_.data() + n * padded_; }
  /// How many terms, 0, 4, 6 or 8, the pairs from kAnchorBlock * block on have at most; the further ones are 0.
  std::size_t block_terms(std::size_t block) const noexcept { return block_terms_[block]; }
  /// cos and sin of theta_j * (k + 0.5), k < 32, for a fast pair: the page's upper half. The lower half mirrors it.
  const float* fast_cosines(std::size_t pair) const noexcept {
    return fast_.data() + fast_index_[pair] * 2 * kAnchorHalf;
  }
  const float* fast_sines(std::size_t pair) const noexcept { return fast_cosines(pair) + kAnchorHalf; }
  /// Bytes of the tables.
  std::size_t bytes() const noexcept;

 private:
  std::size_t pairs_ = 0, padded_ = 0;
  std::vector<char> slow_;
  std::vector<std::uint8_t> block_terms_;
  AlignedBuffer<float> phases_;            ///< [pages][2][padded]
  AlignedBuffer<float> terms_;             ///< [kAnchorTerms][padded]
  AlignedBuffer<float> fast_;              ///< [fast pairs][2][32]
  std::vector<std::uint16_t> fast_index_;  ///< of a fast pair's tables
};

/// The pairs of one layer and KV head that its anchor keeps: A_j = 0 elsewhere.
struct AnchorPairs {
  std::vector<float> re, im;                  ///< A_j, [padded pairs]
  std::size_t slow_first = 0, slow_last = 0;  ///< slow pairs lie in [first, last), both multiples of 16
  std::vector<std::uint16_t> fast;            ///< indices of fast pairs, ascending
};
/// a  a key of head_dim values before RoPE, NEOX order; only its first 2 * pairs() values are looked at
AnchorPairs make_anchor_pairs(const AnchorAngles& angles, std::span<const float> a);

/// C_j = conj(Q_j) A_j of a query after RoPE, into re and im [padded pairs].
void anchor_products(const AnchorAngles& angles, const AnchorPairs& anchor, const float* q, float* re,
                     float* im) noexcept;

/// logits[r][t] += alpha_r(64 page + t) for all t < 64
struct AnchorArgs {
  const AnchorAngles& angles;
  const AnchorPairs& anchor;
  const float* re;  ///< [rows][padded pairs] of anchor_products
  const float* im;
  std::size_t rows;
  std::size_t page;
  float* logits;  ///< [rows][64]
};
using AnchorFunction = void (*)(const AnchorArgs&) noexcept;

/// The kernels of all tiers, the most capable first. f32; |error| <= 1e-6 * sum_j |C_j|, docs/numerics.md.
std::span<const Implementation<AnchorFunction>> anchor_implementations() noexcept;
/// The kernel for an instruction set.
AnchorFunction add_anchor(Isa isa) noexcept;

}  // namespace kvant::kernels
