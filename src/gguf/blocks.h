#pragma once
#include <cstddef>
#include <span>

#include "gguf/types.h"

/// Scalar reference of the block formats: what a block means, and how the simple ones are made. Fast kernels are
/// tested against these.
namespace kvant::gguf {

/// Decodes `out.size()` consecutive values (a multiple of the block's) of a weight type into f32.
/// data  row_bytes(type, out.size()) bytes, any alignment
/// Each value is one f32 expression in the order of the layout's formula (gguf/types.h), without contraction.
void dequantize(TensorType type, const std::byte* data, std::span<float> out);

/// Encodes values of f32 f16 bf16 q8_0 q5_1 q5_0 q4_1 q4_0 (round to nearest as ggml's reference quantizers do).
/// Throws unsupported for any other type.
/// out  row_bytes(type, values.size()) bytes
void quantize(TensorType type, std::span<const float> values, std::byte* out);

}  // namespace kvant::gguf
