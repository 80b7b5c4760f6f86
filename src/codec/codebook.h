#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvant::codec {

/// Scalar quantizers for one coordinate x of a uniformly distributed unit vector in R^n. Its density is
/// f(x) = C (1 - x^2)^((n-3)/2) on [-1, 1], with mean 0 and variance 1/n. Distortions are D = n E(x - level(x))^2: the
/// mean squared error of a whole unit vector.

/// Limits of what the functions below accept.
inline constexpr std::size_t kMinCodebookDimension = 8, kMaxCodebookDimension = 512;
inline constexpr int kMaxCodebookBits = 10;
/// Widest codebook whose levels fit signed bytes.
inline constexpr int kMaxByteLevelBits = 7;

/// The quantizer of least distortion (Lloyd 1982, Max 1960): levels are the means of their cells, thresholds the
/// midpoints between levels.
struct Codebook {
  std::size_t dimension = 0;
  int bits = 0;
  std::vector<double> levels;      ///< 2^bits, ascending, levels[i] == -levels[2^bits - 1 - i]
  std::vector<double> thresholds;  ///< 2^bits - 1, ascending
  double distortion = 0;
};

/// Solves for the codebook of `dimension` 8..512 and `bits` 1..10. Throws invalid_argument outside these ranges.
Codebook solve_codebook(std::size_t dimension, int bits);

/// A codebook rounded to whole multiples of one unit, so that dot products with its levels are integer sums.
struct ByteLevels {
  std::vector<std::int8_t> levels;  ///< ascending, antisymmetric, |level| in 1..127
  double unit = 0;                  ///< level * unit stands for a coordinate of a unit vector
  double distortion = 0;            ///< with the midpoints of the rounded levels as thresholds
};

/// The rounding of least distortion, found by a search over units. At dimension 128 it adds to the codebook's
/// distortion, in percent: 0.002 at 3 bits, 0.05 at 4, 0.7 at 5, 4 at 6, 23 at 7. Throws invalid_argument above 7 bits.
ByteLevels byte_levels(const Codebook& codebook);

/// 2^bits evenly spaced levels +-(i + 1/2) step with thresholds at the multiples of step.
struct UniformGrid {
  double step = 0;
  double distortion = 0;
};

/// The grid of least distortion, same ranges and errors as solve_codebook.
UniformGrid solve_uniform_grid(std::size_t dimension, int bits);

/// Distortion of any ascending levels when each coordinate goes to the nearest one. Levels lie in (-1, 1); dimension as
/// in solve_codebook.
double distortion_of(std::size_t dimension, std::span<const double> levels);

/// The probability that a coordinate's magnitude is below x in [0, 1].
double coordinate_probability(std::size_t dimension, double x);

}  // namespace kvant::codec
