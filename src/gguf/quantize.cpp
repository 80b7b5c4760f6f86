#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "gguf/blocks.h"

// Formulas: ggml's reference quantizers (quantize_row_*_ref). Codes use the scale before it is rounded to f16.
namespace kvant::gguf {
namespace {

/// v truncated towards zero, or 0 when it does not fit eight bits: codes of NaNs, infinities and blocks whose scale has
/// no finite inverse. Such a block's scale or value is zero, infinite or NaN whatever its codes are.
int code(float v) { return std::abs(v) < 128.0f ? static_cast<int>(v) : 0; }

/// v rounded half away from zero, or 0 as in code().
int rounded(float v) {
  const int whole = code(v);
  const float rest = v - static_cast<float>(whole);
  return std::abs(rest) < 1.0f ? whole + (rest >= 0.5f) - (rest <= -0.5f) : 0;
}

float inverse(float d) { return d != 0 ? 1.0f / d : 0.0f; }

/// The value of largest magnitude, sign kept; the first of several, 0 when all are NaN.
float extreme(const float* x) {
  float best = 0;
  for (std::size_t i = 0; i < kBlock; ++i) {
    if (std::abs(x[i]) > std::abs(best)) best = x[i];
  }
  return best;
}

/// Stores 32 codes as nibbles, and their fifth bits in `qh` if there is one.
void pack(const int (&q)[kBlock], std::uint8_t (&qs)[16], std::uint8_t* qh) {
  for (std::size_t i = 0; i < 16; ++i) qs[i] = static_cast<std::uint8_t>((q[i] & 15) | (q[i + 16] & 15) << 4);
  if (qh == nullptr) return;
  for (std::size_t i = 0; i < 4; ++i) {
    unsigned byte = 0;
    for (unsigned b = 0; b < 8; ++b) byte |= static_cast<unsigned>(q[i * 8 + b] >> 4 & 1) << b;
    qh[i] = static_cast<std::uint8_t>(byte);
  }
}

/// q4_0 (kHalf = 8) and q5_0 (16): the extreme value is code 0, codes are rounded half up.
template <int kHalf>
F16 encode_symmetric(const float* x, int (&q)[kBlock]) {
  const float d = extreme(x) / static_cast<float>(-kHalf);
  const float id = inverse(d);
  for (std::size_t i = 0; i < kBlock; ++i) {
    q[i] = std::min(2 * kHalf - 1, code(x[i] * id + (static_cast<float>(kHalf) + 0.5f)));
  }
  return to_f16(d);
}

/// q4_1 (kTop = 15) and q5_1 (31): the least value is code 0, the greatest kTop.
template <int kTop>
F16 encode_affine(const float* x, int (&q)[kBlock], F16& m) {
  float min = std::numeric_limits<float>::max();
  float max = std::numeric_limits<float>::lowest();
  for (std::size_t i = 0; i < kBlock; ++i) {
    if (x[i] < min) min = x[i];
    if (x[i] > max) max = x[i];
  }
  const float d = (max - min) / static_cast<float>(kTop);
  const float id = inverse(d);
  for (std::size_t i = 0; i < kBlock; ++i) q[i] = std::min(kTop, code((x[i] - min) * id + 0.5f));
  m = to_f16(min);
  return to_f16(d);
}

void encode(const float* x, BlockQ4_0& block) {
  int q[kBlock];
  block.d = encode_symmetric<8>(x, q);
  pack(q, block.qs, nullptr);
}

void encode(const float* x, BlockQ5_0& block) {
  int q[kBlock];
  block.d = encode_symmetric<16>(x, q);
  pack(q, block.qs, block.qh);
}

void encode(const float* x, BlockQ4_1& block) {
  int q[kBlock];
  block.d = encode_affine<15>(x, q, block.m);
  pack(q, block.qs, nullptr);
}

void encode(const float* x, BlockQ5_1& block) {
  int q[kBlock];
  block.d = encode_affine<31>(x, q, block.m);
  pack(q, block.qs, block.qh);
}

/// d = largest magnitude / 127, codes rounded half away from zero.
void encode(const float* x, BlockQ8_0& block) {
  const float d = std::abs(extreme(x)) / 127.0f;
  const float id = inverse(d);
  block.d = to_f16(d);
  for (std::size_t i = 0; i < kBlock; ++i) block.qs[i] = static_cast<std::int8_t>(rounded(x[i] * id));
}

template <class Block>
void encode_row(std::span<const float> values, std::byte* out) {
  for (std::size_t at = 0; at + kBlock <= values.size(); at += kBlock, out += sizeof(Block)) {
    Block block;
    encode(values.data() + at, block);
    std::memcpy(out, &block, sizeof block);
  }
}

template <class Round>
void narrow_row(std::span<const float> values, std::byte* out, Round round) {
  for (const float value : values) {
    const auto half = round(value);
    std::memcpy(out, &half, sizeof half);
    out += sizeof half;
  }
}

}  // namespace

void quantize(TensorType type, std::span<const float> values, std::byte* out) {
  KVANT_ASSERT(values.size() % info(type).block_values == 0);
  switch (type) {
    case TensorType::f32:
      if (!values.empty()) std::memcpy(out, values.data(), values.size_bytes());
      return;
    case TensorType::f16:
      return narrow_row(values, out, to_f16);
    case TensorType::bf16:
      return narrow_row(values, out, to_bf16);
    case TensorType::q8_0:
      return encode_row<BlockQ8_0>(values, out);
    case TensorType::q5_1:
      return encode_row<BlockQ5_1>(values, out);
    case TensorType::q5_0:
      return encode_row<BlockQ5_0>(values, out);
    case TensorType::q4_1:
      return encode_row<BlockQ4_1>(values, out);
    case TensorType::q4_0:
      return encode_row<BlockQ4_0>(values, out);
    default:
      fail(ErrorCode::unsupported, "cannot quantize to type {}", info(type).name);
  }
}

}  // namespace kvant::gguf
