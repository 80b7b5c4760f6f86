#pragma once
#include <string>
#include <string_view>

#include "gguf/types.h"

namespace kvant::codec {

/// How the K or the V of a cache is stored. Text form: f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0, and "rot-" before an
/// integer type: each head is rotated by an orthonormal Walsh-Hadamard transform before it is stored, and the query
/// (or, for V, the output) is rotated accordingly.
struct CacheSpec {
  gguf::TensorType type = gguf::TensorType::f16;
  bool rotated = false;

  friend bool operator==(const CacheSpec&, const CacheSpec&) = default;
};

/// Parses a text form; throws invalid_argument with the list of valid ones.
CacheSpec parse_cache_spec(std::string_view text);
/// The text form; parse_cache_spec(to_string(s)) == s.
std::string to_string(const CacheSpec& spec);
/// Bytes that one stored vector of head_dim values takes: whole blocks, the last one padded with zeros.
std::size_t vector_bytes(const CacheSpec& spec, std::size_t head_dim);

}  // namespace kvant::codec
