#include <cmath>

#include "kernels/elementwise/elementwise.h"
#include "kernels/simd/f32_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
extern const Elementwise kElementwise;
#include "kernels/elementwise/generic.h"
}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
