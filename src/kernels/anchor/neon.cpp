#include "kernels/anchor/anchor.h"
#include "kernels/simd/f32_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
void add_anchor(const AnchorArgs& a) noexcept;
namespace {
inline F32 reverse(F32 a) {
  const float32x4_t swapped = vrev64q_f32(a.v);
  return {vextq_f32(swapped, swapped, 2)};
}
inline F32 fnma(F32 a, F32 b, F32 c) { return {vfmsq_f32(c.v, a.v, b.v)}; }
}  // namespace
#include "kernels/anchor/generic.h"
}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
