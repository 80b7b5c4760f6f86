#include "kernels/fwht/fwht.h"

#include <algorithm>
#include <bit>

#include "kernels/simd/target.h"

namespace kvant::kernels {

#define KVANT_KERNELS(tier)                    \
  namespace tier {                             \
  void fwht(float* x, std::size_t n) noexcept; \
  }
#include "kernels/fwht/kernels.inc"
#undef KVANT_KERNELS

std::span<const Implementation<FwhtFunction>> fwht_implementations() noexcept {
  static constexpr Implementation<FwhtFunction> kList[] = {
#define KVANT_KERNELS(tier) {#tier, Isa::tier, &tier::fwht},
#include "kernels/fwht/kernels.inc"
#undef KVANT_KERNELS
  };
  return kList;
}

FwhtFunction fwht(Isa isa) noexcept { return pick(fwht_implementations(), isa).function; }

void rotate_head(FwhtFunction transform, float* x, std::size_t dims) noexcept {
  while (dims > 1) {
    const std::size_t n = std::min<std::size_t>(64, std::bit_floor(dims));
    transform(x, n);
    x += n;
    dims -= n;
  }
}

}  // namespace kvant::kernels
