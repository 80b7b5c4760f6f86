#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/half.h"

/// Tensor types of a GGUF file: ids, block sizes and block layouts. Layouts follow the GGUF specification and ggml's
/// block formats (https://github.com/ggml-org/ggml, docs/gguf.md): little-endian, no padding, blocks along a row.
namespace kvant::gguf {

enum class TensorType : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  iq4_nl = 20,
  iq4_xs = 23,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  bf16 = 30,
};

/// What a type is, without any code that computes with it.
struct TypeInfo {
  TensorType type;
  std::string_view name;     ///< as in the GGUF world: "F32", "Q4_K"
  std::size_t block_values;  ///< values per block
  std::size_t block_bytes;   ///< bytes per block
  /// True bits per value, scales included.
  double bits() const { return 8.0 * static_cast<double>(block_bytes) / static_cast<double>(block_values); }
};

/// Information on a type, or nullptr for an id that is none of ours.
const TypeInfo* find_type(std::uint32_t id) noexcept;
/// The same for a known type.
const TypeInfo& info(TensorType type) noexcept;
/// All known types.
std::span<const TypeInfo> all_types() noexcept;
/// Whether matrices of this type can be weights (everything but the integer types and f64).
bool is_weight_type(TensorType type) noexcept;
/// Bytes of `values` consecutive values; values must be a multiple of the block's.
std::size_t row_bytes(TensorType type, std::size_t values) noexcept;

// Block layouts. d and dmin are scales; qs hold codes, low nibble first.

constexpr std::size_t kBlock = 32;        ///< values of a legacy block
constexpr std::size_t kSuperBlock = 256;  ///< values of a k-quant superblock

struct BlockQ4_0 {  // 4.5 bits: value = d * (q - 8); value i < 16 in the low nibble of qs[i], i + 16 in its high nibble
  F16 d;
  std::uint8_t qs[16];
};
struct BlockQ4_1 {  // 5 bits: value = d * q + m; nibbles as q4_0
  F16 d, m;
  std::uint8_t qs[16];
};
struct BlockQ5_0 {  // 5.5 bits: value = d * (q - 16); bit 4 of value i is bit i of qh (little-endian 32 bits)
  F16 d;
  std::uint8_t qh[4];
  std::uint8_t qs[16];
};
struct BlockQ5_1 {  // 6 bits: value = d * q + m
  F16 d, m;
  std::uint8_t qh[4];
  std::uint8_t qs[16];
};
struct BlockQ8_0 {  // 8.5 bits: value = d * q
  F16 d;
  std::int8_t qs[32];
};
struct BlockQ2_K {  // 2.625 bits: 16 sub-blocks of 16: value = d * (scales & 15) * q - dmin * (scales >> 4)
  std::uint8_t scales[16];
  std::uint8_t qs[64];
  F16 d, dmin;
};
struct BlockQ3_K {  // 3.4375 bits: 16 sub-blocks of 16 with 6-bit scales: value = d * (scale - 32) * (q - 4)
  std::uint8_t hmask[32];
  std::uint8_t qs[64];
  std::uint8_t scales[12];
  F16 d;
};
struct BlockQ4_K {  // 4.5 bits: 8 sub-blocks of 32 with 6-bit scale and min: value = d * scale * q - dmin * min
  F16 d, dmin;
  std::uint8_t scales[12];
  std::uint8_t qs[128];
};
struct BlockQ5_K {  // 5.5 bits: as q4_k with a fifth bit in qh
  F16 d, dmin;
  std::uint8_t scales[12];
  std::uint8_t qh[32];
  std::uint8_t qs[128];
};
struct BlockQ6_K {  // 6.5625 bits: 16 sub-blocks of 16 with int8 scales: value = d * scale * (q - 32)
  std::uint8_t ql[128];
  std::uint8_t qh[64];
  std::int8_t scales[16];
  F16 d;
};
struct BlockIQ4_NL {  // 4.5 bits: value = d * table[q]; nibbles as q4_0
  F16 d;
  std::uint8_t qs[16];
};
struct BlockIQ4_XS {  // 4.25 bits: 8 sub-blocks of 32 with 6-bit scales: value = d * (scale - 32) * table[q]
  F16 d;
  std::uint16_t scales_h;
  std::uint8_t scales_l[4];
  std::uint8_t qs[128];
};
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockIQ4_NL) == 18 && sizeof(BlockIQ4_XS) == 136);
static_assert(sizeof(BlockQ2_K) == 84 && sizeof(BlockQ3_K) == 110 && sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

/// The 16 levels of IQ4_NL and IQ4_XS.
inline constexpr std::int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace kvant::gguf
