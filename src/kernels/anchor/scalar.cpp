#include "kernels/anchor/anchor.h"
#include "kernels/simd/f32_scalar.h"

namespace kvant::kernels::scalar {
void add_anchor(const AnchorArgs& a) noexcept;
namespace {
inline F32 reverse(F32 a) { return a; }
inline F32 fnma(F32 a, F32 b, F32 c) { return {c.v - a.v * b.v}; }
}  // namespace
#include "kernels/anchor/generic.h"
}  // namespace kvant::kernels::scalar
