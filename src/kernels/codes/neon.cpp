#include "kernels/codes/lanes_neon.h"

#ifdef KVANT_ARM64
namespace kvant::kernels::neon {
#include "kernels/codes/table.h"
}  // namespace kvant::kernels::neon
#endif
