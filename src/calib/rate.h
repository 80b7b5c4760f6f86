#pragma once
#include <cstddef>
#include <span>
#include <utility>
#include <vector>

#include "codec/head_code.h"
#include "codec/page_layout.h"

namespace kvant::calib {

/// A way to code the vectors of one head.
struct CodeOption {
  std::vector<codec::CodePart> parts;
  std::size_t bytes = 0;  ///< of a page of 64 tokens
  double cost = 0;        ///< expected error in the metric of the transform
};

/// Expected share of a part's energy that is lost, from the codes' own tables: Lloyd-Max levels for a coordinate of a
/// random direction, without what the least-squares scale still gains; evenly spaced ones up to the expected peak.
/// 8-bit scales count as kLogScaleLoss more.
double relative_distortion(const codec::CodePart& part);

/// What 8-bit logarithmic scales add to the divergence, measured at 3 and 4 bits (docs/quality.md): more than to the
/// distortion of a random direction, as an error along the vector itself falls on the large logits.
inline constexpr double kLogScaleLoss = 1.10;

/// relative_distortion() of all parts that a search considers, computed once.
class DistortionTable {
 public:
  /// For vectors of coded_dims(head_dim).
  explicit DistortionTable(std::size_t head_dim);

  std::size_t dims() const noexcept { return dims_; }
  /// The codes of a part of `dims` dims, a multiple of 32, by rising bits; the first is not stored.
  std::span<const std::pair<codec::CodePart, double>> codes(std::size_t dims) const { return codes_[dims / 32]; }
  double of(const codec::CodePart& part) const;

 private:
  std::size_t dims_;
  std::vector<std::vector<std::pair<codec::CodePart, double>>> codes_;  ///< [dims / 32]
};

/// Whether the fast kernels take codes of so many bits for so many dims. Values are summed along dims, a plane of one
/// bit holds four dims of a token side by side, and 64 dims fill the longest vectors.
inline bool is_fast(codec::PageSide side, std::size_t dims, int bits) noexcept {
  return side == codec::PageSide::key || bits % 2 == 0 || dims % 64 == 0;
}

/// The options of a head worth choosing from: of one, two or (the last not stored) three parts, or of `one_part`, fast
/// ones only, those on the lower convex hull of cost over bytes, by rising bytes. energies [head_dim], falling, as
/// HeadTransform has them; a part's cost is its relative distortion times (sum of sqrt(energy))^2 / dims: within a
/// part, coded dims are rotated among each other and share the error evenly; dims that are not stored cost the sum of
/// their energies (reverse water-filling over parts: Berger, "Rate Distortion Theory", 1971, section 4.5).
std::vector<CodeOption> code_options(const DistortionTable& table, codec::PageSide side,
                                     std::span<const double> energies, bool one_part = false);

/// The cost of all dims in one part of lm codes with `bits` bits.
double uniform_cost(const DistortionTable& table, std::span<const double> energies, int bits);

}  // namespace kvant::calib
