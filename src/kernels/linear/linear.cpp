#include "kernels/linear/linear.h"

#include "kernels/simd/target.h"

namespace kvant::kernels {

#define KVANT_KERNELS(tier)                \
  namespace tier {                         \
  void linear(const LinearArgs&) noexcept; \
  }
#include "kernels/linear/kernels.inc"
#undef KVANT_KERNELS

std::span<const Implementation<LinearFunction>> linear_implementations() noexcept {
  static constexpr Implementation<LinearFunction> kList[] = {
#define KVANT_KERNELS(tier) {#tier, Isa::tier, &tier::linear},
#include "kernels/linear/kernels.inc"
#undef KVANT_KERNELS
  };
  return kList;
}

LinearFunction linear(Isa isa) noexcept { return pick(linear_implementations(), isa).function; }

}  // namespace kvant::kernels
