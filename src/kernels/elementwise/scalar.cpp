#include <cmath>

#include "kernels/elementwise/elementwise.h"
#include "kernels/simd/f32_scalar.h"

namespace kvant::kernels::scalar {
extern const Elementwise kElementwise;
#include "kernels/elementwise/generic.h"
}  // namespace kvant::kernels::scalar
