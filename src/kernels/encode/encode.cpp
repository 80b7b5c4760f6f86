#include "kernels/encode/encode.h"

#include "base/error.h"
#include "kernels/simd/target.h"

namespace kvant::kernels {

#define KVANT_KERNELS(tier)        \
  namespace tier {                 \
  extern const Encoders kEncoders; \
  }
#include "kernels/encode/kernels.inc"
#undef KVANT_KERNELS

std::span<const Implementation<const Encoders*>> encode_implementations() noexcept {
  static constexpr Implementation<const Encoders*> kList[] = {
#define KVANT_KERNELS(tier) {#tier, Isa::tier, &tier::kEncoders},
#include "kernels/encode/kernels.inc"
#undef KVANT_KERNELS
  };
  return kList;
}

const Encoders& encoders(Isa isa) noexcept { return *pick(encode_implementations(), isa).function; }

EncodeFunction Encoders::of(gguf::TensorType type) const {
  for (const Entry& e : types) {
    if (e.type == type) return e.encode;
  }
  fail(ErrorCode::unsupported, "{} is no type of a cache", gguf::info(type).name);
}

float largest_storable(gguf::TensorType type) {
  using enum gguf::TensorType;
  constexpr float kF16 = 65504;
  switch (type) {
    case f32:
      return 0x1.fffffep127F;
    case bf16:
      return 0x1.fep127F;
    case q8_0:  // scale = magnitude / 127
      return 127 * kF16;
    case q5_0:
      return 16 * kF16;
    case q4_0:
      return 8 * kF16;
    default:  // f16 itself, and the minimum of q4_1 and q5_1
      return kF16;
  }
}

}  // namespace kvant::kernels
