#include "gguf/types.h"

#include <algorithm>
#include <array>

namespace kvant::gguf {
namespace {

using T = TensorType;
constexpr std::array kTypes{
    TypeInfo{T::f32, "F32", 1, 4},
    TypeInfo{T::f16, "F16", 1, 2},
    TypeInfo{T::q4_0, "Q4_0", kBlock, sizeof(BlockQ4_0)},
    TypeInfo{T::q4_1, "Q4_1", kBlock, sizeof(BlockQ4_1)},
    TypeInfo{T::q5_0, "Q5_0", kBlock, sizeof(BlockQ5_0)},
    TypeInfo{T::q5_1, "Q5_1", kBlock, sizeof(BlockQ5_1)},
    TypeInfo{T::q8_0, "Q8_0", kBlock, sizeof(BlockQ8_0)},
    TypeInfo{T::q2_k, "Q2_K", kSuperBlock, sizeof(BlockQ2_K)},
    TypeInfo{T::q3_k, "Q3_K", kSuperBlock, sizeof(BlockQ3_K)},
    TypeInfo{T::q4_k, "Q4_K", kSuperBlock, sizeof(BlockQ4_K)},
    TypeInfo{T::q5_k, "Q5_K", kSuperBlock, sizeof(BlockQ5_K)},
    TypeInfo{T::q6_k, "Q6_K", kSuperBlock, sizeof(BlockQ6_K)},
    TypeInfo{T::iq4_nl, "IQ4_NL", kBlock, sizeof(BlockIQ4_NL)},
    TypeInfo{T::iq4_xs, "IQ4_XS", kSuperBlock, sizeof(BlockIQ4_XS)},
    TypeInfo{T::i8, "I8", 1, 1},
    TypeInfo{T::i16, "I16", 1, 2},
    TypeInfo{T::i32, "I32", 1, 4},
    TypeInfo{T::i64, "I64", 1, 8},
    TypeInfo{T::f64, "F64", 1, 8},
    TypeInfo{T::bf16, "BF16", 1, 2},
};

}  // namespace

const TypeInfo* find_type(std::uint32_t id) noexcept {
  const auto at = std::find_if(kTypes.begin(), kTypes.end(),
                               [id](const TypeInfo& type) { return static_cast<std::uint32_t>(type.type) == id; });
  return at == kTypes.end() ? nullptr : &*at;
}

const TypeInfo& info(TensorType type) noexcept { return *find_type(static_cast<std::uint32_t>(type)); }

std::span<const TypeInfo> all_types() noexcept { return kTypes; }

bool is_weight_type(TensorType type) noexcept {
  switch (type) {
    case T::i8:
    case T::i16:
    case T::i32:
    case T::i64:
    case T::f64:
      return false;
    default:
      return true;
  }
}

std::size_t row_bytes(TensorType type, std::size_t values) noexcept {
  const TypeInfo& of = info(type);
  return values / of.block_values * of.block_bytes;
}

}  // namespace kvant::gguf
