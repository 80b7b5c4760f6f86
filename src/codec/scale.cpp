#include "codec/scale.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"
#include "base/half.h"

namespace kvant::codec {
namespace {

constexpr int kStepsPerOctave = 8, kUnityCode = 128;

/// 2^((i + offset)/8) for i = 0..7, rounded to float.
std::array<float, kStepsPerOctave> octave(double offset) {
  std::array<float, kStepsPerOctave> values{};
  for (int i = 0; i < kStepsPerOctave; ++i) {
    values[static_cast<std::size_t>(i)] = static_cast<float>(std::exp2((i + offset) / kStepsPerOctave));
  }
  return values;
}

std::uint16_t encode_log8(float scale) {
  static const std::array<float, kStepsPerOctave> bounds = octave(0.5);
  if (scale <= decode_scale(ScaleFormat::log8, 1) / 2) return 0;
  int exponent = 0;
  const float fraction = 2 * std::frexp(scale, &exponent);  // in [1, 2)
  const auto steps = std::count_if(bounds.begin(), bounds.end(), [&](float bound) { return bound < fraction; });
  const int code = kUnityCode + kStepsPerOctave * (exponent - 1) + static_cast<int>(steps);
  return static_cast<std::uint16_t>(std::clamp(code, 1, 255));
}

float decode_log8(std::uint16_t stored) {
  static const std::array<float, kStepsPerOctave> values = octave(0);
  if (stored == 0) return 0;
  return std::ldexp(values[stored % kStepsPerOctave], (stored - kUnityCode) >> 3);  // kUnityCode is a whole octave
}

}  // namespace

std::uint16_t encode_scale(ScaleFormat format, float scale) {
  KVANT_ASSERT(scale >= 0 && std::isfinite(scale));
  return format == ScaleFormat::f16 ? to_f16(std::min(scale, kMaxF16Scale)).bits : encode_log8(scale);
}

float decode_scale(ScaleFormat format, std::uint16_t stored) {
  return format == ScaleFormat::f16 ? to_float(F16{stored}) : decode_log8(stored);
}

}  // namespace kvant::codec
