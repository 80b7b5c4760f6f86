#include "kernels/fwht/scalar.h"
#include "kernels/simd/f32_avx512.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
namespace {

template <std::size_t step>
F32 butterfly(F32 x) noexcept {
  constexpr __mmask16 kUpper = step == 1 ? 0xaaaa : step == 2 ? 0xcccc : step == 4 ? 0xf0f0 : 0xff00;
  __m512 other;
  if constexpr (step == 1) {
    other = _mm512_permute_ps(x.v, 0xb1);
  } else if constexpr (step == 2) {
    other = _mm512_permute_ps(x.v, 0x4e);
  } else if constexpr (step == 4) {
    other = _mm512_shuffle_f32x4(x.v, x.v, 0xb1);
  } else {
    other = _mm512_shuffle_f32x4(x.v, x.v, 0x4e);
  }
  return {_mm512_mask_sub_ps(_mm512_add_ps(x.v, other), kUpper, other, x.v)};
}

}  // namespace
#include "kernels/fwht/generic.h"
}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
