#include "kernels/anchor/anchor.h"
#include "kernels/simd/f32_avx512.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
void add_anchor(const AnchorArgs& a) noexcept;
namespace {
inline F32 reverse(F32 a) {
  const __m512i lanes = _mm512_setr_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return {_mm512_permutexvar_ps(lanes, a.v)};
}
inline F32 fnma(F32 a, F32 b, F32 c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
}  // namespace
#include "kernels/anchor/generic.h"
}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
