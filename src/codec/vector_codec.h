#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "codec/scale.h"

namespace kvant::codec {

/// How the coordinates of one vector (a group of dims of a key or value, already rotated) become codes.
enum class QuantizerKind : std::uint8_t {
  lm,   ///< Lloyd-Max levels for a vector of known norm, rounded to bytes; 1..7 bits
  uni,  ///< evenly spaced levels for a vector of known peak; 1..8 bits
};

/// The constants of a quantizer: a code stands for scale * levels[code], where the scale is stored with each vector.
struct Quantizer {
  QuantizerKind kind = QuantizerKind::lm;
  std::size_t dimension = 0;
  int bits = 0;
  /// 2^bits whole numbers, ascending, antisymmetric, within -127..127 (uni at 8 bits: -255..255). uni: the odd numbers
  /// times 2^(7 - bits), so that scales have the same size at every width.
  std::vector<std::int16_t> levels;
  std::vector<float> midpoints;  ///< (levels[i] + levels[i + 1]) / 2, exact
  /// A coordinate x is compared with the midpoints as x * gain / size, where size is the vector's norm (lm) or its
  /// largest magnitude (uni).
  float gain = 0;
  /// The code for x: cells[kCellsBelowZero + k], k the least integer not below 2 x; midpoints are multiples of 1/2.
  std::vector<std::uint8_t> cells;
  static constexpr int kCellsBelowZero = 511;
};

/// Throws invalid_argument when `bits` is outside the range of the kind, or when `dimension` is not a power of two
/// from 8 to 512.
///
/// The gain of lm is that of the codebook (byte_levels). That of uni lets the outer cells end at the largest magnitude,
/// or, at few bits, clips where the best fixed grid would clip a vector whose largest magnitude is the median one.
Quantizer make_quantizer(QuantizerKind kind, std::size_t dimension, int bits);

/// Vectors with a larger magnitude than this, or with a NaN, are refused.
inline constexpr float kMaxMagnitude = 0x1p59F;
/// Vectors of a smaller norm (lm) or peak (uni) are stored as zeros.
inline constexpr float kMinVectorSize = 0x1p-60F;

/// The sum of values[0..n), n a power of two, in the order that all reductions into stored bytes use: the upper half is
/// added to the lower half, elementwise, until one value is left. Overwrites `values`.
float tree_sum(std::span<float> values);

/// Encodes x of q.dimension values. Every operation is in float, rounded to nearest even, never fused:
///  1. size = sqrt(tree_sum(x_i * x_i)) (lm) or max |x_i| (uni); factor = gain / size, 0 where size < kMinVectorSize.
///  2. code_i = number of midpoints below x_i * factor, so ties go to the smaller code. c_i = levels[code_i].
///  3. scale = max(+0, tree_sum(x_i * c_i) / sum(c_i * c_i)), the least-squares fit; the second sum is an integer,
///     rounded to float. It is stored as encode_scale does.
///  4. log8 only, unless the stored scale is 0: step 2 again with factor = 1 / (the stored scale), so that the codes
///     make up for its coarse rounding. On random directions this changes the distortion by -2 to +2 % at up to 4
///     bits, at 32 dims by +2 % (lm) and +8 % (uni) at 5 bits, and by too much to be useful above.
/// Returns false, leaving the outputs undefined, when a value is NaN or above kMaxMagnitude. An f16 scale saturates for
/// peaks above 8.3e6 (uni) or norms above 65504 * gain (lm, 128 dims: 3e7).
bool encode_vector(const Quantizer& q, ScaleFormat format, std::span<const float> x, std::span<std::uint8_t> codes,
                   std::uint16_t& stored_scale);

/// What the codes stand for, exact in double.
void decode_vector(const Quantizer& q, ScaleFormat format, std::span<const std::uint8_t> codes,
                   std::uint16_t stored_scale, std::span<double> x);

}  // namespace kvant::codec
