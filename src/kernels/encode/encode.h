#pragma once
#include <array>
#include <cstddef>
#include <span>

#include "base/cpu.h"
#include "gguf/types.h"
#include "kernels/registry.h"

namespace kvant::kernels {

/// Encodes `count` values (a multiple of 32) to the bytes that gguf::quantize makes of them, the same on every tier.
/// Returns false, with `out` undefined, when a value is NaN or its magnitude is above largest_storable(type).
using EncodeFunction = bool (*)(const float* x, std::size_t count, std::byte* out) noexcept;

/// The greatest magnitude whose block stays finite when decoded, whatever stands beside it: the scales and minima of
/// blocks are f16.
float largest_storable(gguf::TensorType type);

/// All encoders of one tier.
struct Encoders {
  struct Entry {
    gguf::TensorType type;
    EncodeFunction encode;
  };
  /// f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0
  std::array<Entry, 8> types;

  /// Throws unsupported for a type that caches do not store.
  EncodeFunction of(gguf::TensorType type) const;
};

/// The encoders of all tiers, the most capable first.
std::span<const Implementation<const Encoders*>> encode_implementations() noexcept;
/// The encoders for an instruction set.
const Encoders& encoders(Isa isa) noexcept;

}  // namespace kvant::kernels
