#include "kernels/fwht/scalar.h"
#include "kernels/simd/f32_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
namespace {

template <std::size_t step>
F32 butterfly(F32 x) noexcept {
  const float32x4_t other = step == 1 ? vrev64q_f32(x.v) : vextq_f32(x.v, x.v, 2);
  const uint32_t mask[4] = {0, step == 1 ? ~0u : 0u, step == 1 ? 0u : ~0u, ~0u};
  return {vbslq_f32(vld1q_u32(mask), vsubq_f32(other, x.v), vaddq_f32(x.v, other))};
}

}  // namespace
#include "kernels/fwht/generic.h"
}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
