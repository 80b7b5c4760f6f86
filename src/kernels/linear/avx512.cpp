#include "kernels/linear/linear.h"
#include "kernels/simd/f32_avx512.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
#include "kernels/linear/generic.h"
}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
