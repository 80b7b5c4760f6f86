#include "kernels/linear/linear.h"
#include "kernels/simd/f32_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
#include "kernels/linear/generic.h"
}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
