#include <cmath>
#include <span>

#include "gguf/blocks.h"
#include "kernels/encode/encode.h"

namespace kvant::kernels::scalar {
extern const Encoders kEncoders;
namespace {

using gguf::TensorType;

template <TensorType type>
bool encode(const float* x, std::size_t count, std::byte* out) noexcept {
  const float limit = largest_storable(type);
  for (std::size_t i = 0; i < count; ++i) {
    if (!(std::abs(x[i]) <= limit)) return false;
  }
  gguf::quantize(type, {x, count}, out);
  return true;
}

template <TensorType type>
constexpr Encoders::Entry entry() {
  return {type, encode<type>};
}

}  // namespace

const Encoders kEncoders{{entry<TensorType::f32>(), entry<TensorType::f16>(), entry<TensorType::bf16>(),
                          entry<TensorType::q8_0>(), entry<TensorType::q5_1>(), entry<TensorType::q5_0>(),
                          entry<TensorType::q4_1>(), entry<TensorType::q4_0>()}};

}  // namespace kvant::kernels::scalar
