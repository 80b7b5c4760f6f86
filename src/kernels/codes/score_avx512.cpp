#include "kernels/codes/lanes_avx512.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
#include "kernels/codes/keys.h"
//
#include "kernels/codes/score.h"
}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
