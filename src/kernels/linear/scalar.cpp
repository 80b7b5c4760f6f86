#include "kernels/linear/linear.h"
#include "kernels/simd/f32_scalar.h"

namespace kvant::kernels::scalar {
#include "kernels/linear/generic.h"
}  // namespace kvant::kernels::scalar
