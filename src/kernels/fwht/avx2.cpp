#include "kernels/fwht/scalar.h"
#include "kernels/simd/f32_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
namespace {

template <std::size_t step>
F32 butterfly(F32 x) noexcept {
  constexpr int kUpper = step == 1 ? 0xaa : step == 2 ? 0xcc : 0xf0;
  __m256 other;
  if constexpr (step == 1) {
    other = _mm256_permute_ps(x.v, 0xb1);
  } else if constexpr (step == 2) {
    other = _mm256_permute_ps(x.v, 0x4e);
  } else {
    other = _mm256_permute2f128_ps(x.v, x.v, 1);
  }
  return {_mm256_blend_ps(_mm256_add_ps(x.v, other), _mm256_sub_ps(other, x.v), kUpper)};
}

}  // namespace
#include "kernels/fwht/generic.h"
}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
