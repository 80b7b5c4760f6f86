#pragma once
#include "gguf/types.h"

/// Decoding of single blocks, one overload per layout; dequantize() (gguf/blocks.h) applies them along a row.
/// Products are evaluated from left to right as the formulas in gguf/types.h are written.
namespace kvant::gguf {

void decode(const BlockQ4_0& block, float* out) noexcept;
void decode(const BlockQ4_1& block, float* out) noexcept;
void decode(const BlockQ5_0& block, float* out) noexcept;
void decode(const BlockQ5_1& block, float* out) noexcept;
void decode(const BlockQ8_0& block, float* out) noexcept;
void decode(const BlockIQ4_NL& block, float* out) noexcept;
void decode(const BlockQ2_K& block, float* out) noexcept;
void decode(const BlockQ3_K& block, float* out) noexcept;
void decode(const BlockQ4_K& block, float* out) noexcept;
void decode(const BlockQ5_K& block, float* out) noexcept;
void decode(const BlockQ6_K& block, float* out) noexcept;
void decode(const BlockIQ4_XS& block, float* out) noexcept;

}  // namespace kvant::gguf
