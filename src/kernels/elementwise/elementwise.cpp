#include "kernels/elementwise/elementwise.h"

#include "kernels/registry.h"
#include "kernels/simd/target.h"

namespace kvant::kernels {

#define KVANT_KERNELS(tier)              \
  namespace tier {                       \
  extern const Elementwise kElementwise; \
  }
#include "kernels/elementwise/kernels.inc"
#undef KVANT_KERNELS

std::span<const Implementation<const Elementwise*>> elementwise_implementations() noexcept {
  static constexpr Implementation<const Elementwise*> kList[] = {
#define KVANT_KERNELS(tier) {#tier, Isa::tier, &tier::kElementwise},
#include "kernels/elementwise/kernels.inc"
#undef KVANT_KERNELS
  };
  return kList;
}

const Elementwise& elementwise(Isa isa) noexcept { return *pick(elementwise_implementations(), isa).function; }

}  // namespace kvant::kernels
