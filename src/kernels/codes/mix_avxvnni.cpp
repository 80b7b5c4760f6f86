#include "kernels/codes/lanes_avxvnni.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avxvnni {
#include "kernels/codes/values.h"
}  // namespace kvant::kernels::avxvnni
KVANT_TARGET_END

KVANT_TARGET_AVXVNNI_BEGIN
namespace kvant::kernels::avxvnni {
namespace smaller = kvant::kernels::avx2;  // of vectors of which all parts take whole ones
#include "kernels/codes/mix.h"
}  // namespace kvant::kernels::avxvnni
KVANT_TARGET_END
#endif
