#include "kernels/codes/lanes_avx2.h"

#ifdef KVANT_X86
namespace kvant::kernels::avx2 {
#include "kernels/codes/table.h"
}  // namespace kvant::kernels::avx2
#endif
