#include <algorithm>
#include <cmath>

#include "gguf/blocks.h"
#include "kernels/encode/encode.h"
#include "kernels/simd/f32_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::kernels::avx2 {
extern const Encoders kEncoders;
#include "kernels/encode/generic.h"
}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
