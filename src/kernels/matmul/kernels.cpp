#include "kernels/matmul/kernels.h"

#include <initializer_list>

#include "kernels/simd/target.h"

namespace kvant::kernels {

#define KVANT_GEMV(tier, type)                \
  namespace tier {                            \
  void gemv_##type(const GemvArgs&) noexcept; \
  }
#define KVANT_GEMM(tier, type)                \
  namespace tier {                            \
  void gemm_##type(const GemmArgs&) noexcept; \
  }
#define KVANT_DECODE(tier, type)                                      \
  namespace tier {                                                    \
  void decode_##type(const std::byte*, std::size_t, float*) noexcept; \
  }
#define KVANT_TILE(tier, tile) \
  namespace tier {             \
  extern const Tile tile;      \
  }
#include "kernels/matmul/kernels.inc"
#undef KVANT_GEMV
#undef KVANT_GEMM
#undef KVANT_DECODE
#undef KVANT_TILE

// Initializer lists, as a processor may have no kernel of a kind.
std::span<const WeightKernel<Gemv>> gemv_kernels() noexcept {
  static const std::initializer_list<WeightKernel<Gemv>> kList = {
#define KVANT_GEMV(tier, type) {{"gemv/" #type "/" #tier, Isa::tier, tier::gemv_##type}, gguf::TensorType::type},
#define KVANT_GEMM(tier, type)
#define KVANT_DECODE(tier, type)
#define KVANT_TILE(tier, tile)
#include "kernels/matmul/kernels.inc"
#undef KVANT_GEMV
#undef KVANT_GEMM
  };
  return {kList.begin(), kList.size()};
}

std::span<const WeightKernel<Gemm>> gemm_kernels() noexcept {
  static const std::initializer_list<WeightKernel<Gemm>> kList = {
#define KVANT_GEMV(tier, type)
#define KVANT_GEMM(tier, type) {{"gemm/" #type "/" #tier, Isa::tier, tier::gemm_##type}, gguf::TensorType::type},
#include "kernels/matmul/kernels.inc"
#undef KVANT_GEMM
#undef KVANT_DECODE
  };
  return {kList.begin(), kList.size()};
}

std::span<const WeightKernel<DecodeValues>> decode_kernels() noexcept {
  static const std::initializer_list<WeightKernel<DecodeValues>> kList = {
#define KVANT_GEMM(tier, type)
#define KVANT_DECODE(tier, type) {{"decode/" #type "/" #tier, Isa::tier, tier::decode_##type}, gguf::TensorType::type},
#include "kernels/matmul/kernels.inc"
#undef KVANT_DECODE
#undef KVANT_TILE
  };
  return {kList.begin(), kList.size()};
}

std::span<const Implementation<const Tile*>> tiles() noexcept {
  static constexpr Implementation<const Tile*> kList[] = {
#define KVANT_DECODE(tier, type)
#define KVANT_TILE(tier, tile) {#tile "/" #tier, Isa::tier, &tier::tile},
#include "kernels/matmul/kernels.inc"
#undef KVANT_GEMV
#undef KVANT_GEMM
#undef KVANT_DECODE
#undef KVANT_TILE
  };
  return kList;
}

const Tile& find_tile(Isa isa, bool bf16) noexcept {
  for (const auto& i : tiles()) {
    if (includes(isa, i.isa) && (!i.function->bf16 || (bf16 && has_avx512_bf16()))) return *i.function;
  }
  return scalar::f32_tile;
}

}  // namespace kvant::kernels
