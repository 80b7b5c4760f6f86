#include "kernels/codes/lanes_avx512.h"

#ifdef KVANT_X86
namespace kvant::kernels::avx512 {
#include "kernels/codes/table.h"
}  // namespace kvant::kernels::avx512
#endif
