#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "base/half.h"
#include "codec/scale.h"
#include "codec/vector_codec.h"

namespace kvant::codec {

/// Consecutive dims of a head's stored vectors with codes of their own.
struct CodePart {
  std::size_t dims = 0;  ///< a multiple of 32
  QuantizerKind kind = QuantizerKind::lm;
  int bits = 0;  ///< as the kind allows; 0: the dims are not stored and count as zeros
  ScaleFormat norm = ScaleFormat::f16;

  friend bool operator==(const CodePart&, const CodePart&) = default;
};

/// How the keys or values of one KV head are coded. A vector x (a key after RoPE, a value; without its anchor) is
/// stored as y = T x, and queries q meet it as U q, where U is the transposed inverse of T: (U q) . y = q . x. For
/// values, the output of attention is U^T times the sum of stored vectors. y is cut into parts.
///
/// Stored vectors have coded_dims(head_dim) values; T and U are [coded_dims][head_dim], rows beyond head_dim zero.
struct HeadCode {
  std::vector<Bf16> transform;  ///< T
  std::vector<Bf16> inverse;    ///< U, of the T above as rounded
  std::vector<CodePart> parts;  ///< dims add up to coded_dims; 1 to kMostParts

  friend bool operator==(const HeadCode&, const HeadCode&) = default;
};

inline constexpr std::size_t kMostParts = 4;

/// Values of a stored vector: head_dim rounded up to 32.
std::size_t coded_dims(std::size_t head_dim);
/// Bytes that a page of 64 tokens takes: codes and scales of all parts. Each part of a power of two of up to 256 dims
/// has one scale for each token; others one for each power of two they are cut into, the largest first.
std::size_t page_bytes(std::span<const CodePart> parts);
/// 8 * page_bytes / (64 * head_dim)
double bits_per_value(std::span<const CodePart> parts, std::size_t head_dim);
/// Throws invalid_argument, in a line that starts with `name`, when sizes, parts or numbers are not as described.
void check_head_code(const HeadCode& code, std::size_t head_dim, const std::string& name);

}  // namespace kvant::codec
