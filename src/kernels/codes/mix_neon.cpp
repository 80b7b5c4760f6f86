#include "kernels/codes/lanes_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
namespace smaller = kvant::kernels::neon;  // of vectors of which all parts take whole ones
#include "kernels/codes/values.h"
//
#include "kernels/codes/mix.h"
}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
