#include "gguf/decode.h"

namespace kvant::gguf {
namespace {

/// Calls put(i, code) for the 32 four-bit codes of a block: value i in the low nibble of qs[i], i + 16 in the high one.
template <class Put>
void for_nibbles(const std::uint8_t (&qs)[16], Put put) {
  for (int i = 0; i < 16; ++i) {
    put(i, qs[i] & 15);
    put(i + 16, qs[i] >> 4);
  }
}

/// Bit i of the little-endian 32-bit field.
int bit(const std::uint8_t (&field)[4], int i) { return field[i / 8] >> (i % 8) & 1; }

}  // namespace

void decode(const BlockQ4_0& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_nibbles(block.qs, [&](int i, int q) { out[i] = d * static_cast<float>(q - 8); });
}

void decode(const BlockQ4_1& block, float* out) noexcept {
  const float d = to_float(block.d);
  const float m = to_float(block.m);
  for_nibbles(block.qs, [&](int i, int q) { out[i] = d * static_cast<float>(q) + m; });
}

void decode(const BlockQ5_0& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_nibbles(block.qs, [&](int i, int q) { out[i] = d * static_cast<float>((q | bit(block.qh, i) << 4) - 16); });
}

void decode(const BlockQ5_1& block, float* out) noexcept {
  const float d = to_float(block.d);
  const float m = to_float(block.m);
  for_nibbles(block.qs, [&](int i, int q) { out[i] = d * static_cast<float>(q | bit(block.qh, i) << 4) + m; });
}

void decode(const BlockQ8_0& block, float* out) noexcept {
  const float d = to_float(block.d);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(block.qs[i]);
}

void decode(const BlockIQ4_NL& block, float* out) noexcept {
  const float d = to_float(block.d);
  for_nibbles(block.qs, [&](int i, int q) { out[i] = d * static_cast<float>(kIq4Levels[q]); });
}

}  // namespace kvant::gguf
