#include "codec/head_code.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/checked.h"
#include "base/error.h"
#include "codec/page_layout.h"

namespace kvant::codec {
namespace {

constexpr std::size_t kLargestGroup = 256;  ///< dims with one scale

struct BitRange {
  int least, most;
};

constexpr BitRange bit_range(QuantizerKind kind) { return kind == QuantizerKind::lm ? BitRange{1, 6} : BitRange{2, 8}; }

std::size_t scales_of_token(std::size_t dims) {
  std::size_t scales = 0;
  for (std::size_t left = dims; left > 0; ++scales) left -= std::min(kLargestGroup, std::bit_floor(left));
  return scales;
}

void check_matrix(std::span<const Bf16> matrix, std::size_t head_dim, const std::string& name, std::string_view what) {
  const std::size_t expected = coded_dims(head_dim) * head_dim;
  KVANT_CHECK(matrix.size() == expected, ErrorCode::invalid_argument, "{}: {} of {} values, expected {}", name, what,
              matrix.size(), expected);
  for (std::size_t i = 0; i < matrix.size(); ++i) {
    const float x = to_float(matrix[i]);
    KVANT_CHECK(std::isfinite(x), ErrorCode::invalid_argument, "{}: {}: value {} is {}, expected a finite number", name,
                what, i, x);
    KVANT_CHECK(x == 0 || i < head_dim * head_dim, ErrorCode::invalid_argument,
                "{}: {}: row {} has {}, expected zeros from row {} on", name, what, i / head_dim, x, head_dim);
  }
}

void check_part(const CodePart& part, std::size_t index, const std::string& name) {
  KVANT_CHECK(part.kind == QuantizerKind::lm || part.kind == QuantizerKind::uni, ErrorCode::invalid_argument,
              "{}: part {}: kind {}, expected 0 or 1", name, index, static_cast<int>(part.kind));
  KVANT_CHECK(part.norm == ScaleFormat::f16 || part.norm == ScaleFormat::log8, ErrorCode::invalid_argument,
              "{}: part {}: norm {}, expected 0 or 1", name, index, static_cast<int>(part.norm));
  KVANT_CHECK(part.dims > 0 && part.dims % kPageDimBlock == 0, ErrorCode::invalid_argument,
              "{}: part {}: {} dims, expected a multiple of {}", name, index, part.dims, kPageDimBlock);
  const BitRange range = bit_range(part.kind);
  KVANT_CHECK(part.bits == 0 || (part.bits >= range.least && part.bits <= range.most), ErrorCode::invalid_argument,
              "{}: part {}: {} bits, expected 0 or {} to {}", name, index, part.bits, range.least, range.most);
}

}  // namespace

std::size_t coded_dims(std::size_t head_dim) { return round_up(head_dim, kPageDimBlock); }

std::size_t page_bytes(std::span<const CodePart> parts) {
  std::size_t bytes = 0;
  for (const CodePart& part : parts) {
    if (part.bits == 0) continue;
    bytes += kPageTokens / 8 * part.dims * static_cast<std::size_t>(part.bits) +
             kPageTokens * scales_of_token(part.dims) * scale_bytes(part.norm);
  }
  return bytes;
}

double bits_per_value(std::span<const CodePart> parts, std::size_t head_dim) {
  return 8.0 * static_cast<double>(page_bytes(parts)) / static_cast<double>(kPageTokens * head_dim);
}

void check_head_code(const HeadCode& code, std::size_t head_dim, const std::string& name) {
  check_matrix(code.transform, head_dim, name, "transform");
  check_matrix(code.inverse, head_dim, name, "inverse");
  KVANT_CHECK(!code.parts.empty() && code.parts.size() <= kMostParts, ErrorCode::invalid_argument,
              "{}: {} parts, expected 1 to {}", name, code.parts.size(), kMostParts);
  std::size_t left = coded_dims(head_dim);
  for (std::size_t i = 0; i < code.parts.size(); ++i) {
    const CodePart& part = code.parts[i];
    check_part(part, i, name);
    KVANT_CHECK(part.dims <= left, ErrorCode::invalid_argument, "{}: part {}: {} dims, {} are left", name, i, part.dims,
                left);
    left -= part.dims;
  }
  KVANT_CHECK(left == 0, ErrorCode::invalid_argument, "{}: parts of {} dims, expected {}", name,
              coded_dims(head_dim) - left, coded_dims(head_dim));
}

}  // namespace kvant::codec
