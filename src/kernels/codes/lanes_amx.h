#pragma once
#include "kernels/codes/lanes_avx512.h"
#include "kernels/simd/amx.h"

#ifdef KVANT_X86
/// Matrix registers multiply bytes that the lanes of AVX-512 decode.
namespace kvant::kernels::amx {

// What keys.h and values.h name.
using namespace avx512;  // NOLINT(google-build-using-namespace)
/// Rows of a matrix register.
constexpr std::size_t kCodeRows = kMatrixRows;
/// Up to so many rows the lanes multiply what they decode at once, which is faster than to store it for the matrices.
constexpr std::size_t kRowsOfVectors = avx512::kCodeRows;

template <int bits>
void score_codes(const CodeScoreArgs& args) noexcept;
template <int bits>
void mix_codes(const CodeMixArgs& args) noexcept;

}  // namespace kvant::kernels::amx
#endif
