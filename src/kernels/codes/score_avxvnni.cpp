#include "kernels/codes/lanes_avxvnni.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avxvnni {
#include "kernels/codes/keys.h"
}  // namespace kvant::kernels::avxvnni
KVANT_TARGET_END

KVANT_TARGET_AVXVNNI_BEGIN
namespace kvant::kernels::avxvnni {
#include "kernels/codes/score.h"
}  // namespace kvant::kernels::avxvnni
KVANT_TARGET_END
#endif
