#include "kernels/codes/lanes_amx.h"

#ifdef KVANT_X86
namespace kvant::kernels::amx {
#include "kernels/codes/table.h"
}  // namespace kvant::kernels::amx
#endif
