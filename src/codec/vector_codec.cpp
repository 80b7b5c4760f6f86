#include "codec/vector_codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "base/error.h"
#include "codec/codebook.h"
#include "codec/lanes.h"

namespace kvant::codec {
namespace {

/// The median of the largest magnitude among the coordinates of a unit vector, taken as independent.
double median_peak(std::size_t dimension) {
  const double probability = std::exp2(-1 / static_cast<double>(dimension));
  double low = 0, high = 1;
  while (high - low > 1e-6) {
    const double middle = (low + high) / 2;
    (coordinate_probability(dimension, middle) < probability ? low : high) = middle;
  }
  return high;
}

/// The number of midpoints below x * factor, by table.
void choose_codes(const Quantizer& q, std::span<const float> x, float factor, std::span<std::uint8_t> codes) {
  constexpr float kMost = Quantizer::kCellsBelowZero;
  const Four least = Four{} - kMost, most = Four{} + kMost;
  const std::uint8_t* cells = q.cells.data() + Quantizer::kCellsBelowZero;
  for (std::size_t i = 0; i < x.size(); i += kLanes) {
    Four twice = load(x.data() + i) * factor * 2.0F;
    twice = twice < least ? least : twice;
    twice = twice > most ? most : twice;
    const auto truncated = __builtin_convertvector(twice, FourInts);
    const FourInts up = truncated - (__builtin_convertvector(truncated, Four) < twice);
    for (std::size_t l = 0; l < kLanes; ++l) codes[i + l] = cells[up[l]];
  }
}

float size_of(QuantizerKind kind, std::span<const float> x, std::span<float> scratch) {
  if (kind == QuantizerKind::uni) {
    Four peaks{};
    for (std::size_t i = 0; i < x.size(); i += kLanes) {
      const Four value = load(x.data() + i);
      peaks = peaks < value ? value : peaks;
      peaks = peaks < -value ? -value : peaks;
    }
    return std::max({peaks[0], peaks[1], peaks[2], peaks[3]});
  }
  for (std::size_t i = 0; i < x.size(); i += kLanes) {
    const Four value = load(x.data() + i);
    store(scratch.data() + i, value * value);
  }
  return std::sqrt(tree_sum(scratch));
}

float least_squares_scale(const Quantizer& q, std::span<const float> x, std::span<const std::uint8_t> codes,
                          std::span<float> scratch) {
  std::int32_t norm = 0;
  for (std::size_t i = 0; i < x.size(); i += kLanes) {
    FourInts levels;
    for (std::size_t l = 0; l < kLanes; ++l) {
      const std::int32_t level = q.levels[codes[i + l]];
      levels[l] = level;
      norm += level * level;
    }
    store(scratch.data() + i, load(x.data() + i) * __builtin_convertvector(levels, Four));
  }
  return std::max(0.0F, tree_sum(scratch) / static_cast<float>(norm));
}

/// Whether all magnitudes are at most kMaxMagnitude; not where there is a NaN.
bool all_within_range(std::span<const float> x) {
  FourInts within = FourInts{} - 1;
  for (std::size_t i = 0; i < x.size(); i += kLanes) {
    const Four value = load(x.data() + i);
    within &= (value <= kMaxMagnitude) & (value >= -kMaxMagnitude);
  }
  return (within[0] & within[1] & within[2] & within[3]) != 0;
}

}  // namespace

Quantizer make_quantizer(QuantizerKind kind, std::size_t dimension, int bits) {
  const bool uniform = kind == QuantizerKind::uni;
  const int most = uniform ? 8 : kMaxByteLevelBits;
  KVANT_CHECK(bits >= 1 && bits <= most, ErrorCode::invalid_argument, "quantizer {}: {} bits, expected 1 to {}",
              uniform ? "uni" : "lm", bits, most);
  KVANT_CHECK(
      std::has_single_bit(dimension) && dimension >= kMinCodebookDimension && dimension <= kMaxCodebookDimension,
      ErrorCode::invalid_argument, "quantizer: dimension {}, expected a power of two from {} to {}", dimension,
      kMinCodebookDimension, kMaxCodebookDimension);
  Quantizer q{kind, dimension, bits, {}, {}, 0, {}};
  if (uniform) {
    const int count = 1 << bits, spread = 1 << std::max(0, 7 - bits);
    for (int i = 0; i < count; ++i) q.levels.push_back(static_cast<std::int16_t>((2 * i + 1 - count) * spread));
    const double fixed_edge = solve_uniform_grid(dimension, bits).step * count / 2;
    q.gain = static_cast<float>(count * spread * std::max(1.0, median_peak(dimension) / fixed_edge));
  } else {
    const ByteLevels rounded = byte_levels(solve_codebook(dimension, bits));
    q.levels.assign(rounded.levels.begin(), rounded.levels.end());
    q.gain = static_cast<float>(1 / rounded.unit);
  }
  for (std::size_t i = 1; i < q.levels.size(); ++i) {
    q.midpoints.push_back(static_cast<float>(q.levels[i - 1] + q.levels[i]) / 2);
  }
  for (int k = -Quantizer::kCellsBelowZero; k <= Quantizer::kCellsBelowZero; ++k) {
    const auto above = std::lower_bound(q.midpoints.begin(), q.midpoints.end(), static_cast<float>(k) / 2);
    q.cells.push_back(static_cast<std::uint8_t>(above - q.midpoints.begin()));
  }
  return q;
}

float tree_sum(std::span<float> values) {
  KVANT_ASSERT(std::has_single_bit(values.size()));
  std::size_t half = values.size() / 2;
  for (; half >= kLanes; half /= 2) {
    float* v = values.data();
    for (std::size_t i = 0; i < half; i += kLanes) store(v + i, load(v + i) + load(v + half + i));
  }
  for (; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
}

bool encode_vector(const Quantizer& q, ScaleFormat format, std::span<const float> x, std::span<std::uint8_t> codes,
                   std::uint16_t& stored_scale) {
  KVANT_ASSERT(x.size() == q.dimension && codes.size() == q.dimension);
  if (!all_within_range(x)) return false;
  std::array<float, kMaxCodebookDimension> buffer;
  const std::span<float> scratch = std::span(buffer).first(x.size());
  const float size = size_of(q.kind, x, scratch);
  choose_codes(q, x, size < kMinVectorSize ? 0 : q.gain / size, codes);
  stored_scale = encode_scale(format, least_squares_scale(q, x, codes, scratch));
  if (format == ScaleFormat::log8 && stored_scale != 0) {
    choose_codes(q, x, 1 / decode_scale(format, stored_scale), codes);
  }
  return true;
}

void decode_vector(const Quantizer& q, ScaleFormat format, std::span<const std::uint8_t> codes,
                   std::uint16_t stored_scale, std::span<double> x) {
  KVANT_ASSERT(codes.size() == x.size());
  const double scale = decode_scale(format, stored_scale);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = scale * q.levels[codes[i]];
}

}  // namespace kvant::codec
