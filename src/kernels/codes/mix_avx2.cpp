#include "kernels/codes/lanes_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
namespace smaller = kvant::kernels::avx2;  // of vectors of which all parts take whole ones
#include "kernels/codes/values.h"
//
#include "kernels/codes/mix.h"
}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
