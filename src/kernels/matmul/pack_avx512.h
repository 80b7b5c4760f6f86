#pragma once
// Packing of panels: included within an instruction-set region, after all includes.
#include "kernels/matmul/transpose_avx512.h"

namespace kvant::kernels::avx512 {
namespace {

/// Sixteen f32, those past `count` zero.
__m512 load_up_to(const float* p, std::size_t count) noexcept {
  if (count >= 16) return _mm512_loadu_ps(p);
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}

/// 16 x 16 dwords to rows [0, rows) of a panel of kColumns dwords.
template <std::size_t kColumns>
void store_transposed(__m512i (&r)[16], std::size_t rows, std::int32_t* panel) noexcept {
  transpose(r);
  for (std::size_t i = 0; i < std::min<std::size_t>(rows, 16); ++i) _mm512_storeu_si512(panel + i * kColumns, r[i]);
}

}  // namespace
}  // namespace kvant::kernels::avx512
