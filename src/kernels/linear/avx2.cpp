#include "kernels/linear/linear.h"
#include "kernels/simd/f32_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
#include "kernels/linear/generic.h"
}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
