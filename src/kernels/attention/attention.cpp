#include "kernels/attention/attention.h"

#include "base/error.h"
#include "kernels/simd/target.h"

namespace kvant::kernels {

#define KVANT_KERNELS(tier)                 \
  namespace tier {                          \
  extern const AttentionKernels kAttention; \
  }
#include "kernels/attention/kernels.inc"
#undef KVANT_KERNELS

std::span<const Implementation<const AttentionKernels*>> attention_implementations() noexcept {
  static constexpr Implementation<const AttentionKernels*> kList[] = {
#define KVANT_KERNELS(tier) {#tier, Isa::tier, &tier::kAttention},
#include "kernels/attention/kernels.inc"
#undef KVANT_KERNELS
  };
  return kList;
}

const AttentionKernels& attention(Isa isa) noexcept { return *pick(attention_implementations(), isa).function; }

const TypeKernels& AttentionKernels::of(gguf::TensorType type) const {
  for (const TypeKernels& t : types) {
    if (t.type == type) return t;
  }
  fail(ErrorCode::unsupported, "{} is no type of a cache", gguf::info(type).name);
}

}  // namespace kvant::kernels
