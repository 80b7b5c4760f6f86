#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/half.h"
#include "codec/scale.h"
#include "codec/vector_codec.h"

namespace kvant::codec {

/// What the error e of a coded vector costs: e^T M e instead of e^T e, for a symmetric positive semidefinite metric M
/// in the basis in which vectors are coded: for values W^T W of the output projection, for keys the second moment of
/// the queries.
struct Shaping {
  std::size_t dimension = 0;
  /// [n][n], M over the mean of its diagonal, plus the damping on the diagonal, in bfloat16: each coded vector reads
  /// all of it.
  std::vector<Bf16> metric;
  std::vector<float> inverse;  ///< [n], 1 over the diagonal of that
};

/// Share of the mean of M's diagonal that is added to the diagonal: it keeps errors small where M has seen nothing. On
/// random metrics 0.1 to 0.3 also gives the least undamped cost, as the search is then less often caught.
inline constexpr double kShapingDamping = 0.2;

/// metric [n][n], of which the lower triangle is read; n a power of two from 8 to 512. A metric of zeros counts as the
/// identity. Throws invalid_argument for another size, a damping that is not positive, an entry that is not finite, a
/// negative one on the diagonal, or one off it that is larger than a semidefinite metric's can be.
Shaping make_shaping(std::span<const double> metric, std::size_t n, double damping = kShapingDamping);

/// Sweeps over the coordinates. The first brings most of what there is; those after the second cost little, as few
/// codes still move.
inline constexpr int kShapingSweeps = 4;

/// encode_vector with codes chosen for a smaller e^T M e: decoding and the stored scale stay the same. From the nearest
/// codes on, coordinate after coordinate moves one code up or down where that lowers the cost (coordinate descent for
/// integer least squares), so it never ends above its start. To quantize in order and feed each error forward (LDLQ:
/// Chee et al., "QuIP", 2023, section 3) gains less here: the outermost levels bound what the last coordinates take up.
///
/// Every operation is in float, rounded to nearest even, never fused:
///  1. Codes and scale s of encode_vector; if s is 0, nothing else.
///  2. e_i = min(max(x_i * (1 / s), -4096), 4096) - levels[code_i]; g_i = the sum of M_ki * e_k over rising k.
///  3. Four sweeps over rising i: z = levels[code_i] + g_i * inverse_i; code_i becomes one more where z is above the
///     midpoint over it, one less where z is not above the midpoint below it; d = the old level less the new one, and
///     where that is not 0, g_j += M_ij * d for all j.
/// Returns false as encode_vector does.
bool encode_vector_shaped(const Quantizer& q, const Shaping& shaping, ScaleFormat format, std::span<const float> x,
                          std::span<std::uint8_t> codes, std::uint16_t& stored_scale);

}  // namespace kvant::codec
