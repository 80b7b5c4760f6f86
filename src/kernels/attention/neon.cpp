#include <algorithm>
#include <array>
#include <utility>

#include "kernels/attention/attention.h"
#include "kernels/simd/f32_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
extern const AttentionKernels kAttention;
#include "kernels/attention/generic.h"
}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
