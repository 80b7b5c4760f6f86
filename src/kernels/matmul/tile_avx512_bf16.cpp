#include <algorithm>
#include <cstring>

#include "kernels/matmul/kernels.h"
#include "kernels/simd/target.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512BF16_BEGIN
#include "kernels/matmul/pack_bf16_avx512.h"
#include "kernels/matmul/tile_avx512.h"

namespace kvant::kernels::avx512 {
namespace {

struct Bf16Step {
  static constexpr std::size_t kValues = 2;
  static __m512 add(__m512 sum, const std::byte* x, __m512 w) noexcept {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(to_all_lanes(x)), reinterpret_cast<__m512bh>(w));
  }
};

}  // namespace

constexpr std::size_t kDepth = 512;
extern const Tile bf16_tile = {
    kColumns, kDepth, true, pack_bf16<kColumns, 2>, multiply<Bf16Step>, convert_bf16<kDepth, 1>, 2};

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
