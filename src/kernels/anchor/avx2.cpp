#include "kernels/anchor/anchor.h"
#include "kernels/simd/f32_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
void add_anchor(const AnchorArgs& a) noexcept;
namespace {
inline F32 reverse(F32 a) { return {_mm256_permutevar8x32_ps(a.v, _mm256_setr_epi32(7, 6, 5, 4, 3, 2, 1, 0))}; }
inline F32 fnma(F32 a, F32 b, F32 c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
}  // namespace
#include "kernels/anchor/generic.h"
}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
