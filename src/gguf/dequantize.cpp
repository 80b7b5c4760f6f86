#include <cstring>

#include "base/error.h"
#include "gguf/blocks.h"
#include "gguf/decode.h"

namespace kvant::gguf {
namespace {

template <class Block, std::size_t kValues>
void decode_row(const std::byte* data, std::span<float> out) {
  for (std::size_t at = 0; at + kValues <= out.size(); at += kValues, data += sizeof(Block)) {
    Block block;
    std::memcpy(&block, data, sizeof block);
    decode(block, out.data() + at);
  }
}

template <class Half>
void widen_row(const std::byte* data, std::span<float> out) {
  for (float& value : out) {
    Half half;
    std::memcpy(&half, data, sizeof half);
    value = to_float(half);
    data += sizeof half;
  }
}

}  // namespace

void dequantize(TensorType type, const std::byte* data, std::span<float> out) {
  KVANT_ASSERT(out.size() % info(type).block_values == 0);
  switch (type) {
    case TensorType::f32:
      if (!out.empty()) std::memcpy(out.data(), data, out.size_bytes());
      return;
    case TensorType::f16:
      return widen_row<F16>(data, out);
    case TensorType::bf16:
      return widen_row<Bf16>(data, out);
    case TensorType::q4_0:
      return decode_row<BlockQ4_0, kBlock>(data, out);
    case TensorType::q4_1:
      return decode_row<BlockQ4_1, kBlock>(data, out);
    case TensorType::q5_0:
      return decode_row<BlockQ5_0, kBlock>(data, out);
    case TensorType::q5_1:
      return decode_row<BlockQ5_1, kBlock>(data, out);
    case TensorType::q8_0:
      return decode_row<BlockQ8_0, kBlock>(data, out);
    case TensorType::iq4_nl:
      return decode_row<BlockIQ4_NL, kBlock>(data, out);
    case TensorType::q2_k:
      return decode_row<BlockQ2_K, kSuperBlock>(data, out);
    case TensorType::q3_k:
      return decode_row<BlockQ3_K, kSuperBlock>(data, out);
    case TensorType::q4_k:
      return decode_row<BlockQ4_K, kSuperBlock>(data, out);
    case TensorType::q5_k:
      return decode_row<BlockQ5_K, kSuperBlock>(data, out);
    case TensorType::q6_k:
      return decode_row<BlockQ6_K, kSuperBlock>(data, out);
    case TensorType::iq4_xs:
      return decode_row<BlockIQ4_XS, kSuperBlock>(data, out);
    default:
      fail(ErrorCode::unsupported, "type {} is not a weight type", info(type).name);
  }
}

}  // namespace kvant::gguf
