#include <algorithm>
#include <cstring>

#include "kernels/matmul/kernels.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
#include "kernels/matmul/tile_avx512.h"

namespace kvant::kernels::avx512 {
namespace {

void pack_f32(const float* rows, std::size_t stride, std::size_t depth, std::size_t first, void* panel) noexcept {
  auto* out = static_cast<std::int32_t*>(panel) + first;
  for (std::size_t k = 0; k < depth; k += 16) {
    __m512i r[16];
    for (std::size_t i = 0; i < 16; ++i) r[i] = _mm512_castps_si512(load_up_to(rows + i * stride + k, depth - k));
    store_transposed<kColumns>(r, depth - k, out + k * kColumns);
  }
}

struct F32Step {
  static constexpr std::size_t kValues = 1;  // of k in a dword
  static __m512 add(__m512 sum, const std::byte* x, __m512 w) noexcept {
    return _mm512_fmadd_ps(to_all_lanes(x), w, sum);
  }
};

}  // namespace

extern const Tile f32_tile = {kColumns, 256, false, pack_f32, multiply<F32Step>, nullptr};

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
