#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "base/half.h"

namespace kvant::codec {

/// Share of the mean of a diagonal that is added to it.
inline constexpr double kTransformFloor = 0.003;

/// The linear map in which vectors of one head are coded with the least error where it counts.
struct HeadTransform {
  std::vector<Bf16> transform, inverse;  ///< T and U of a HeadCode (codec/head_code.h)
  /// [head_dim], falling: the products of the variance of a stored dim and the weight of an error in it. A part g of n
  /// dims, coded with relative distortion D, costs D / n * (sum over its dims of sqrt(energy))^2.
  std::vector<double> energies;
};

/// For vectors with covariance C (moment about the mean), whose error e costs e^T M e: with S = M^(1/2) and the
/// eigenvectors and eigenvalues W, L of S C S (the transform coding of Karhunen and Loeve, in the metric),
/// T = L^(-1/4) W^T S, so that a stored dim and the weight of its error have the same energy L^(1/2): within a part
/// that is coded with equal distortion this costs the least (pair scales, generalised). Both matrices [n][n],
/// symmetric, of which the lower triangle is read; `floor` times the mean of its diagonal is added to the diagonal of
/// each. T is scaled so that the mean energy of a stored dim is that of a given one. Throws invalid_argument when an
/// entry is not finite or a matrix has no positive trace.
HeadTransform make_head_transform(std::span<const double> covariance, std::span<const double> metric, std::size_t n,
                                  double floor = kTransformFloor);

/// Second moments [n][n] of vectors before RoPE -> those after it, averaged over the positions 0 .. positions - 1, in
/// place. frequencies: radians per position of each of the pairs (j, j + pairs); dims from 2 * pairs on stay.
void average_over_positions(std::span<double> moment, std::size_t n, std::span<const double> frequencies,
                            std::size_t positions);

}  // namespace kvant::codec
