#include <algorithm>
#include <cmath>

#include "gguf/blocks.h"
#include "kernels/encode/encode.h"
#include "kernels/simd/f32_avx512.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
extern const Encoders kEncoders;
#include "kernels/encode/generic.h"
}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
