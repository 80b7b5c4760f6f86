// Packing of panels of bf16 pairs: included within an instruction-set region with BF16, after all includes.
#include "kernels/matmul/pack_avx512.h"

namespace kvant::kernels::avx512 {
namespace {

/// Dwords of the panel are pairs of values that follow each other in k. Zeros up to a multiple of kStep values.
template <std::size_t kColumns, std::size_t kStep>
void pack_bf16(const float* rows, std::size_t stride, std::size_t depth, std::size_t first, void* panel) noexcept {
  auto* out = static_cast<std::int32_t*>(panel) + first;
  for (std::size_t k = 0; k < depth; k += 32) {
    __m512i r[16];
    const std::size_t left = depth - k;
    for (std::size_t i = 0; i < 16; ++i) {
      const float* p = rows + i * stride + k;
      const __m512 low = load_up_to(p, left);
      const __m512 high = left > 16 ? load_up_to(p + 16, left - 16) : _mm512_setzero_ps();
      r[i] = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    }
    store_transposed<kColumns>(r, (left + kStep - 1) / kStep * kStep / 2, out + k / 2 * kColumns);
  }
}

template <std::size_t kDepth, std::size_t kGroup>
void convert_bf16(const float* x, std::size_t cols, std::size_t stride, Bf16* out) noexcept {
  for (std::size_t k = 0; k < cols; k += 32) {
    const __m512 low = load_up_to(x + k, cols - k);
    const __m512 high = cols - k > 16 ? load_up_to(x + k + 16, cols - k - 16) : _mm512_setzero_ps();
    _mm512_storeu_si512(out + k / kDepth * stride + k % kDepth * kGroup,
                        reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
}

}  // namespace
}  // namespace kvant::kernels::avx512
