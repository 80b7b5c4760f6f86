#include <algorithm>
#include <array>
#include <utility>

#include "kernels/attention/attention.h"
#include "kernels/simd/f32_scalar.h"

namespace kvant::kernels::scalar {
extern const AttentionKernels kAttention;
#include "kernels/attention/generic.h"
}  // namespace kvant::kernels::scalar
