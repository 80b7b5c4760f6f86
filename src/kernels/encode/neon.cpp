#include <algorithm>
#include <cmath>

#include "gguf/blocks.h"
#include "kernels/encode/encode.h"
#include "kernels/simd/f32_neon.h"

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::kernels::neon {
extern const Encoders kEncoders;
#include "kernels/encode/generic.h"
}  // namespace kvant::kernels::neon
KVANT_TARGET_END
#endif
