#include <algorithm>
#include <cstring>

#include "kernels/matmul/kernels.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512BF16_BEGIN
#include "kernels/matmul/tile_avx512.h"

namespace kvant::kernels::avx512 {
namespace {

/// Dwords of the panel are pairs of values that follow each other in k.
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
    store_transposed(r, (left + 1) / 2, out + k / 2 * kColumns);
  }
}

void convert_bf16(const float* x, std::size_t cols, Bf16* out) noexcept {
  for (std::size_t i = 0; i < cols; i += 16) {
    const auto half = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(load_up_to(x + i, cols - i)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), half);
  }
}

struct Bf16Step {
  static constexpr std::size_t kValues = 2;
  static __m512 add(__m512 sum, const std::byte* x, __m512 w) noexcept {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(to_all_lanes(x)), reinterpret_cast<__m512bh>(w));
  }
};

}  // namespace

extern const Tile bf16_tile = {kColumns, 512, true, pack_bf16, multiply<Bf16Step>, convert_bf16};

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
