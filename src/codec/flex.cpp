#include "codec/flex.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/half.h"
#include "codec/codebook.h"
#include "codec/scale.h"

namespace kvant::codec {
namespace {

constexpr std::size_t kOthers = kFlexDims - kFlexOutliers;
constexpr double kEarlierStep = 1.2533141;  // sqrt(pi/2) as the earlier system has it
constexpr float kLeastNorm = 1e-12F;

/// Orthonormal Walsh-Hadamard transform in natural order, in this order of operations.
template <class T>
void hadamard(std::span<T> x) {
  for (std::size_t step = 1; step < x.size(); step *= 2) {
    for (std::size_t block = 0; block < x.size(); block += 2 * step) {
      for (std::size_t i = block; i < block + step; ++i) {
        const T a = x[i], b = x[i + step];
        x[i] = a + b;
        x[i + step] = a - b;
      }
    }
  }
  const T factor = T{1} / std::sqrt(static_cast<T>(x.size()));
  for (T& value : x) value *= factor;
}

template <class T>
void hadamard_blocks(std::span<T> x, std::size_t size) {
  for (std::size_t first = 0; first < x.size(); first += size) hadamard(x.subspan(first, size));
}

float norm_of(std::span<const float> x) {
  float sum = 0;
  for (const float value : x) sum += value * value;
  return std::sqrt(sum);
}

void put_f16(std::span<std::byte> block, std::size_t at, float value) {
  const std::uint16_t stored = encode_scale(ScaleFormat::f16, value);
  std::memcpy(block.data() + at, &stored, sizeof(stored));
}

double get_f16(std::span<const std::byte> block, std::size_t at) {
  F16 stored{};
  std::memcpy(&stored, block.data() + at, sizeof(stored));
  return to_float(stored);
}

/// Field `index` of a stream of fields of `bits` bits, low bits first. The stream's bytes start as zeros.
void put_field(std::span<std::byte> stream, std::size_t index, int bits, unsigned value) {
  for (std::size_t i = 0, at = index * static_cast<std::size_t>(bits); i < static_cast<std::size_t>(bits); ++i, ++at) {
    stream[at / 8] |= static_cast<std::byte>((value >> i & 1U) << at % 8);
  }
}

unsigned get_field(std::span<const std::byte> stream, std::size_t index, int bits) {
  unsigned value = 0;
  for (std::size_t i = 0, at = index * static_cast<std::size_t>(bits); i < static_cast<std::size_t>(bits); ++i, ++at) {
    value |= (std::to_integer<unsigned>(stream[at / 8]) >> at % 8 & 1U) << i;
  }
  return value;
}

/// Index of the level nearest to v, the lower one of two equally near.
std::size_t nearest(std::span<const float> levels, float v) {
  const auto above = std::lower_bound(levels.begin(), levels.end(), v);
  if (above == levels.begin()) return 0;
  const auto index = static_cast<std::size_t>(above - levels.begin());
  if (above == levels.end()) return index - 1;
  return std::abs(v - levels[index - 1]) <= std::abs(v - levels[index]) ? index - 1 : index;
}

int parse_field(std::string_view text, std::string_view& rest, std::string_view name, int least, int most) {
  const std::size_t colon = std::min(rest.find(':'), rest.size());
  const std::string_view field = rest.substr(0, colon);
  int value = 0;
  const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), value);
  KVANT_CHECK(error == std::errc() && end == field.data() + field.size() && value >= least && value <= most,
              ErrorCode::invalid_argument, "cache type '{}': {} is '{}', expected {} to {} (flex:S:H:L:JH:JL)",
              printable(text), name, printable(field), least, most);
  rest.remove_prefix(std::min(colon + 1, rest.size()));
  return value;
}

}  // namespace

FlexSpec parse_flex_spec(std::string_view text) {
  constexpr std::string_view kEarlier = "flex:", kFixed = "flexfix:";
  FlexSpec spec;
  spec.least_squares_step = text.starts_with(kFixed);
  KVANT_CHECK(spec.least_squares_step || text.starts_with(kEarlier), ErrorCode::invalid_argument,
              "cache type '{}': expected flex:S:H:L:JH:JL or flexfix:S:H:L:JH:JL", printable(text));
  KVANT_CHECK(std::count(text.begin(), text.end(), ':') == 5, ErrorCode::invalid_argument,
              "cache type '{}': expected 5 fields, S:H:L:JH:JL", printable(text));
  std::string_view rest = text.substr((spec.least_squares_step ? kFixed : kEarlier).size());
  spec.split = parse_field(text, rest, "S", 0, 1) == 1;
  spec.hi_bits = parse_field(text, rest, "H", 1, 10);
  spec.lo_bits = parse_field(text, rest, "L", spec.split ? 1 : 0, 8);
  spec.hi_signs = parse_field(text, rest, "JH", 0, 1) == 1;
  spec.lo_signs = parse_field(text, rest, "JL", 0, 1) == 1;
  return spec;
}

std::string to_string(const FlexSpec& spec) {
  return fmt::format("{}:{:d}:{}:{}:{:d}:{:d}", spec.least_squares_step ? "flexfix" : "flex", spec.split, spec.hi_bits,
                     spec.lo_bits, spec.hi_signs, spec.lo_signs);
}

void check(const FlexSpec& spec) { parse_flex_spec(to_string(spec)); }

std::size_t flex_bytes(const FlexSpec& spec) {
  const auto hi = static_cast<std::size_t>(spec.hi_bits), lo = static_cast<std::size_t>(spec.lo_bits);
  if (!spec.split) return 2 + 16 * hi + (spec.hi_signs ? 18 : 0);
  return 4 + 4 * hi + 12 * lo + (spec.hi_signs ? 6 : 0) + (spec.lo_signs ? 14 : 0);
}

FlexChannels make_flex_channels(std::span<const std::uint8_t> permutation) {
  KVANT_CHECK(permutation.size() == kFlexDims, ErrorCode::format, "permutation of {} channels, expected {}",
              permutation.size(), kFlexDims);
  std::array<bool, kFlexDims> seen{};
  for (const std::uint8_t channel : permutation) {
    KVANT_CHECK(channel < kFlexDims && !seen[channel], ErrorCode::format, "permutation: channel {} is {}", channel,
                channel < kFlexDims ? "there twice" : "out of range");
    seen[channel] = true;
  }
  FlexChannels channels;
  std::copy(permutation.begin(), permutation.end(), channels.order.begin());
  std::sort(channels.order.begin(), channels.order.begin() + kFlexOutliers);
  std::sort(channels.order.begin() + kFlexOutliers, channels.order.end());
  return channels;
}

FlexCodec::FlexCodec(const FlexSpec& spec) : spec_(spec) {
  check(spec);
  if (spec.split) {
    add_part(0, kFlexOutliers, kFlexOutliers, spec.hi_bits, spec.hi_signs);
    add_part(kFlexOutliers, kOthers, kFlexOutliers, spec.lo_bits, spec.lo_signs);
  } else {
    add_part(0, kFlexDims, kFlexDims, spec.hi_bits, spec.hi_signs);
  }
  // In the block: all norms, then the codes of all parts, then each part's magnitude and signs.
  std::size_t at = 0;
  for (Part& part : parts_) part.norm_at = std::exchange(at, at + 2);
  for (Part& part : parts_) {
    part.codes_at = std::exchange(at, at + part.count * static_cast<std::size_t>(part.bits) / 8);
  }
  for (Part& part : parts_) part.signs_at = std::exchange(at, part.signs ? at + 2 + part.count / 8 : at);
  KVANT_ASSERT(at == bytes());
}

void FlexCodec::add_part(std::size_t first, std::size_t count, std::size_t transform, int bits, bool signs) {
  const Codebook book = solve_codebook(count, bits);
  parts_.push_back({first, count, transform, bits, signs, 0, 0, 0, {}});
  for (const double level : book.levels) parts_.back().levels.push_back(static_cast<float>(level));
}

void FlexCodec::rotate(std::span<const float> x, const FlexChannels& channels, std::span<float> rotated) const {
  KVANT_ASSERT(x.size() == kFlexDims && rotated.size() == kFlexDims);
  for (std::size_t i = 0; i < kFlexDims; ++i) rotated[i] = x[spec_.split ? channels.order[i] : i];
  hadamard_blocks(rotated, parts_[0].transform);
}

bool FlexCodec::encode(std::span<const float> x, const FlexChannels& channels, std::span<std::byte> block) const {
  KVANT_ASSERT(block.size() == bytes());
  std::array<float, kFlexDims> raw{}, rotated{};
  for (std::size_t i = 0; i < kFlexDims; ++i) raw[i] = x[spec_.split ? channels.order[i] : i];
  rotate(x, channels, rotated);
  std::fill(block.begin(), block.end(), std::byte{0});
  return std::all_of(parts_.begin(), parts_.end(), [&](const Part& part) {
    return encode_part(part, std::span(raw).subspan(part.first, part.count),
                       std::span(rotated).subspan(part.first, part.count), block);
  });
}

bool FlexCodec::encode_part(const Part& part, std::span<const float> raw, std::span<const float> rotated,
                            std::span<std::byte> block) const {
  const float norm = norm_of(rotated);
  if (!std::isfinite(norm)) return false;
  put_f16(block, part.norm_at, norm);
  const float inverse = norm > kLeastNorm ? 1 / norm : 0;
  std::array<float, kFlexDims> decoded{}, residual_buffer{};
  for (std::size_t i = 0; i < part.count; ++i) {
    const std::size_t code = nearest(part.levels, rotated[i] * inverse);
    put_field(block.subspan(part.codes_at), i, part.bits, static_cast<unsigned>(code));
    decoded[i] = norm * part.levels[code];
  }
  if (!part.signs) return true;

  // Outliers: the residual is taken before the transform and transformed, as the earlier system does. Mathematically
  // it is the same, but rounding decides the sign of residuals near zero.
  const bool before = spec_.split && part.first == 0;
  const std::span<float> residual = std::span(residual_buffer).first(part.count);
  if (before) hadamard(std::span(decoded).first(part.count));
  for (std::size_t i = 0; i < part.count; ++i) residual[i] = (before ? raw[i] : rotated[i]) - decoded[i];
  float magnitude = norm_of(residual);
  if (before) hadamard(residual);
  if (spec_.least_squares_step) {
    magnitude = 0;
    for (const float value : residual) magnitude += std::abs(value);
    magnitude /= static_cast<float>(part.count);
  }
  put_f16(block, part.signs_at, magnitude);
  for (std::size_t i = 0; i < part.count; ++i) {
    put_field(block.subspan(part.signs_at + 2), i, 1, residual[i] >= 0 ? 1 : 0);
  }
  return true;
}

void FlexCodec::decode_rotated(std::span<const std::byte> block, std::span<double> rotated) const {
  KVANT_ASSERT(block.size() == bytes() && rotated.size() == kFlexDims);
  for (const Part& part : parts_) {
    const double norm = get_f16(block, part.norm_at);
    double step = part.signs ? get_f16(block, part.signs_at) : 0;
    if (!spec_.least_squares_step) step *= kEarlierStep / static_cast<double>(part.count);
    for (std::size_t i = 0; i < part.count; ++i) {
      double value = norm * part.levels[get_field(block.subspan(part.codes_at), i, part.bits)];
      if (part.signs) value += get_field(block.subspan(part.signs_at + 2), i, 1) != 0 ? step : -step;
      rotated[part.first + i] = value;
    }
  }
}

void FlexCodec::decode(std::span<const std::byte> block, const FlexChannels& channels, std::span<double> x) const {
  std::array<double, kFlexDims> values{};
  decode_rotated(block, values);
  hadamard_blocks(std::span<double>(values), parts_[0].transform);  // its own inverse
  for (std::size_t i = 0; i < kFlexDims; ++i) x[spec_.split ? channels.order[i] : i] = values[i];
}

}  // namespace kvant::codec
