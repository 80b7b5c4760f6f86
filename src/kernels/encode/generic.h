// The encoders over a tier's vectors. Included inside the namespace and target region of each tier. The formulas and
// the order of their operations are those of gguf/quantize.cpp, to which the rare blocks go whose scale has no finite
// inverse or whose extreme value is not unique in sign.
namespace {

using gguf::TensorType;
constexpr std::size_t kLanes = F32::kLanes;
constexpr std::size_t kBlock = gguf::kBlock;
constexpr std::size_t kVectors = kBlock / kLanes;  // of a block

/// 32 values in registers.
struct Values {
  F32 v[kVectors];
  explicit Values(const float* x) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kVectors; ++c) v[c] = load(x + c * kLanes);
  }
  float least() const {
    F32 m = v[0];
    KVANT_UNROLL
    for (std::size_t c = 1; c < kVectors; ++c) m = min(m, v[c]);
    return min(m);
  }
  float greatest() const {
    F32 m = v[0];
    KVANT_UNROLL
    for (std::size_t c = 1; c < kVectors; ++c) m = max(m, v[c]);
    return max(m);
  }
};

float inverse(float d) { return d != 0 ? 1.0F / d : 0.0F; }

/// Stores the codes min(top, truncate(f(x))) as nibbles, and their fifth bits in qh if there is one.
template <class Function>
void pack(const Values& x, int top, std::uint8_t (&qs)[16], std::uint8_t* qh, Function f) {
  I32 q[kVectors];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kVectors; ++c) q[c] = min(truncate(f(x.v[c])), broadcast_i32(top));
  KVANT_UNROLL
  for (std::size_t c = 0; c < kVectors / 2; ++c) {
    const I32 nibble = broadcast_i32(15);
    store_u8(qs + c * kLanes, (q[c] & nibble) | shift_left<4>(q[c + kVectors / 2] & nibble));
  }
  if (qh == nullptr) return;
  std::uint32_t bits = 0;
  KVANT_UNROLL
  for (std::size_t c = 0; c < kVectors; ++c) bits |= mask_of_16(q[c]) << c * kLanes;
  __builtin_memcpy(qh, &bits, sizeof bits);
}

bool encode_block(const Values& x, gguf::BlockQ8_0& block) {
  const float d = std::abs(std::max(x.greatest(), -x.least())) / 127.0F;
  const float id = inverse(d);
  if (std::isinf(id)) return false;
  block.d = to_f16(d);
  KVANT_UNROLL
  for (std::size_t c = 0; c < kVectors; ++c) {
    // To the nearest, halves away from zero: truncation after adding the number just below one half.
    const F32 scaled = x.v[c] * broadcast(id);
    store_u8(reinterpret_cast<std::uint8_t*>(block.qs) + c * kLanes,
             truncate(scaled + with_sign_of(broadcast(0x1.fffffep-2F), scaled)));
  }
  return true;
}

template <int kHalf, class BlockType>
bool encode_symmetric(const Values& x, BlockType& block, std::uint8_t* qh) {
  const float low = x.least();
  const float high = x.greatest();
  const float d = (high > -low ? high : low) / static_cast<float>(-kHalf);
  const float id = inverse(d);
  if (high == -low || std::isinf(id)) return false;
  block.d = to_f16(d);
  const F32 offset = broadcast(static_cast<float>(kHalf) + 0.5F);
  pack(x, 2 * kHalf - 1, block.qs, qh, [&](F32 v) { return v * broadcast(id) + offset; });
  return true;
}

template <int kTop, class BlockType>
bool encode_affine(const Values& x, BlockType& block, std::uint8_t* qh) {
  const float low = x.least();
  const float d = (x.greatest() - low) / static_cast<float>(kTop);
  const float id = inverse(d);
  if (low == 0 || std::isinf(id)) return false;
  block.d = to_f16(d);
  block.m = to_f16(low);
  pack(x, kTop, block.qs, qh, [&](F32 v) { return (v - broadcast(low)) * broadcast(id) + broadcast(0.5F); });
  return true;
}

bool encode_block(const Values& x, gguf::BlockQ4_0& block) { return encode_symmetric<8>(x, block, nullptr); }
bool encode_block(const Values& x, gguf::BlockQ5_0& block) { return encode_symmetric<16>(x, block, block.qh); }
bool encode_block(const Values& x, gguf::BlockQ4_1& block) { return encode_affine<15>(x, block, nullptr); }
bool encode_block(const Values& x, gguf::BlockQ5_1& block) { return encode_affine<31>(x, block, block.qh); }

bool storable(TensorType type, const float* x, std::size_t count) noexcept {
  const F32 limit = broadcast(largest_storable(type));
  for (std::size_t i = 0; i < count; i += kLanes) {
    if (!all_within(load(x + i), limit)) return false;
  }
  return true;
}

template <TensorType type, class BlockType>
bool encode(const float* x, std::size_t count, std::byte* out) noexcept {
  if (!storable(type, x, count)) return false;
  for (std::size_t i = 0; i < count; i += kBlock, out += sizeof(BlockType)) {
    BlockType block;
    if (encode_block(Values(x + i), block)) {
      __builtin_memcpy(out, &block, sizeof block);
    } else {
      gguf::quantize(type, {x + i, kBlock}, out);
    }
  }
  return true;
}

bool encode_f32(const float* x, std::size_t count, std::byte* out) noexcept {
  if (!storable(TensorType::f32, x, count)) return false;
  __builtin_memcpy(out, x, count * sizeof(float));
  return true;
}

bool encode_f16(const float* x, std::size_t count, std::byte* out) noexcept {
  if (!storable(TensorType::f16, x, count)) return false;
  for (std::size_t i = 0; i < count; i += kLanes) store_f16(out + 2 * i, load(x + i));
  return true;
}

bool encode_bf16(const float* x, std::size_t count, std::byte* out) noexcept {
  if (!storable(TensorType::bf16, x, count)) return false;
  for (std::size_t i = 0; i < count; i += kLanes) {
    const I32 bits = as_i32(load(x + i));
    const I32 odd = shift_right<16>(bits) & broadcast_i32(1);
    store_u16(out + 2 * i, shift_right<16>(bits + broadcast_i32(0x7fff) + odd));
  }
  return true;
}

}  // namespace

constinit const Encoders kEncoders{{{{TensorType::f32, encode_f32},
                                     {TensorType::f16, encode_f16},
                                     {TensorType::bf16, encode_bf16},
                                     {TensorType::q8_0, encode<TensorType::q8_0, gguf::BlockQ8_0>},
                                     {TensorType::q5_1, encode<TensorType::q5_1, gguf::BlockQ5_1>},
                                     {TensorType::q5_0, encode<TensorType::q5_0, gguf::BlockQ5_0>},
                                     {TensorType::q4_1, encode<TensorType::q4_1, gguf::BlockQ4_1>},
                                     {TensorType::q4_0, encode<TensorType::q4_0, gguf::BlockQ4_0>}}}};
