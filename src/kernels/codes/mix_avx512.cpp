#include "kernels/codes/lanes_avx2.h"
#include "kernels/codes/lanes_avx512.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
namespace smaller = kvant::kernels::avx2;  // of vectors of which all parts take whole ones
#include "kernels/codes/values.h"
//
#include "kernels/codes/mix.h"
}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
