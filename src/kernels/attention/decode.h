// Stored blocks of 32 values as vectors of a tier: Block<type>(bytes).get(c) is the c-th vector of kLanes values.
// Included inside the namespace and target region of each tier. Layouts: gguf/types.h.
namespace {

using gguf::TensorType;
constexpr std::size_t kLanes = F32::kLanes;
constexpr std::size_t kBlock = gguf::kBlock;

template <TensorType type>
struct Block;

template <>
struct Block<TensorType::f32> {
  static constexpr std::size_t kBytes = 128;
  const std::byte* p;
  explicit Block(const std::byte* data) : p(data) {}
  F32 get(std::size_t c) const { return load(reinterpret_cast<const float*>(p) + c * kLanes); }
};

template <>
struct Block<TensorType::f16> {
  static constexpr std::size_t kBytes = 64;
  const std::byte* p;
  explicit Block(const std::byte* data) : p(data) {}
  F32 get(std::size_t c) const { return load_f16(p + 2 * c * kLanes); }
};

template <>
struct Block<TensorType::bf16> {
  static constexpr std::size_t kBytes = 64;
  const std::byte* p;
  explicit Block(const std::byte* data) : p(data) {}
  F32 get(std::size_t c) const { return load_bf16(p + 2 * c * kLanes); }
};

template <>
struct Block<TensorType::q8_0> {
  static constexpr std::size_t kBytes = sizeof(gguf::BlockQ8_0);
  F32 d;
  const std::int8_t* qs;
  explicit Block(const std::byte* p) : d(broadcast_f16(p)), qs(reinterpret_cast<const std::int8_t*>(p + 2)) {}
  F32 get(std::size_t c) const { return to_f32(load_i8(qs + c * kLanes)) * d; }
};

/// 16 bytes whose low nibbles are values 0 to 15 and whose high nibbles are 16 to 31. The bits above the nibble are
/// left for the reader to ignore.
struct Nibbles {
  const std::uint8_t* qs;
  explicit Nibbles(const std::byte* p) : qs(reinterpret_cast<const std::uint8_t*>(p)) {}
  I32 get(std::size_t c) const {
    const std::size_t first = c * kLanes;
    const I32 bytes = load_u8(qs + first % 16);
    return first < 16 ? bytes : shift_right<4>(bytes);
  }
};

template <>
struct Block<TensorType::q4_0> {
  static constexpr std::size_t kBytes = sizeof(gguf::BlockQ4_0);
  NibbleLine line;
  Nibbles codes;
  explicit Block(const std::byte* p) : line(broadcast_f16(p), broadcast_f16(p) * broadcast(-8.0F)), codes(p + 2) {}
  F32 get(std::size_t c) const { return line(codes.get(c)); }
};

template <>
struct Block<TensorType::q4_1> {
  static constexpr std::size_t kBytes = sizeof(gguf::BlockQ4_1);
  NibbleLine line;
  Nibbles codes;
  explicit Block(const std::byte* p) : line(broadcast_f16(p), broadcast_f16(p + 2)), codes(p + 4) {}
  F32 get(std::size_t c) const { return line(codes.get(c)); }
};

/// Codes of five bits: nibbles, and the upper bits in 32 bits before them.
struct FiveBits {
  std::uint32_t upper;
  Nibbles lower;
  explicit FiveBits(const std::byte* p) : lower(p + 4) { __builtin_memcpy(&upper, p, sizeof upper); }
  F32 get(std::size_t c) const { return to_f32((lower.get(c) & broadcast_i32(15)) | bit_as_16(upper, c * kLanes)); }
};

template <>
struct Block<TensorType::q5_0> {
  static constexpr std::size_t kBytes = sizeof(gguf::BlockQ5_0);
  F32 d;
  FiveBits codes;
  explicit Block(const std::byte* p) : d(broadcast_f16(p)), codes(p + 2) {}
  F32 get(std::size_t c) const { return (codes.get(c) - broadcast(16.0F)) * d; }
};

template <>
struct Block<TensorType::q5_1> {
  static constexpr std::size_t kBytes = sizeof(gguf::BlockQ5_1);
  F32 d, m;
  FiveBits codes;
  explicit Block(const std::byte* p) : d(broadcast_f16(p)), m(broadcast_f16(p + 2)), codes(p + 4) {}
  F32 get(std::size_t c) const { return fma(codes.get(c), d, m); }
};

template <TensorType type>
void decode(const std::byte* data, std::size_t count, float* out) noexcept {
  for (std::size_t i = 0; i < count; i += kBlock, data += Block<type>::kBytes) {
    const Block<type> block(data);
    KVANT_UNROLL
    for (std::size_t c = 0; c < kBlock / kLanes; ++c) store(out + i + c * kLanes, block.get(c));
  }
}

}  // namespace
