#pragma once
#include <cstddef>
#include <cstdint>

namespace kvant::codec {

/// How the scale of a stored vector is kept. Scales are not negative.
enum class ScaleFormat : std::uint8_t {
  f16,   ///< IEEE binary16, 2 bytes: relative error at most 2^-11 down to 2^-14, absolute at most 2^-25 below
  log8,  ///< 1 byte c: 2^((c-128)/8), 0 for c = 0. Covers 2^-15.875 to 2^15.875, relative error at most 4.4 %
};

inline constexpr float kMaxF16Scale = 65504;

constexpr std::size_t scale_bytes(ScaleFormat format) { return format == ScaleFormat::f16 ? 2 : 1; }

/// The stored form of a finite scale >= 0. f16: nearest, ties to even; above 65504, 65504. log8: nearest in the
/// logarithm, ties to the smaller; zero up to half of the least value (2^-16.875), the largest value above it.
std::uint16_t encode_scale(ScaleFormat format, float scale);

/// The scale that a stored form stands for; an f16 form must be finite. Exact for f16. For log8 the float nearest to
/// the power of two.
float decode_scale(ScaleFormat format, std::uint16_t stored);

}  // namespace kvant::codec
