#include "kernels/codes/lanes_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
#include "kernels/codes/keys.h"
//
#include "kernels/codes/score.h"
}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
