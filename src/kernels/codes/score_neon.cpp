#include "kernels/codes/lanes_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
#include "kernels/codes/keys.h"
//
#include "kernels/codes/score.h"
}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
