#include <algorithm>
#include <array>
#include <utility>

#include "kernels/attention/attention.h"
#include "kernels/simd/f32_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
extern const AttentionKernels kAttention;
#include "kernels/attention/generic.h"
}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
