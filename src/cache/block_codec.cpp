#include <algorithm>

#include "base/checked.h"
#include "cache/page_codec.h"
#include "gguf/blocks.h"
#include "kernels/encode/encode.h"
#include "kernels/fwht/fwht.h"

namespace kvant::cache {
namespace {

using gguf::TensorType;

constexpr std::size_t kFusedRows = 12;  ///< with more rows, decoding a page once pays for storing it

class BlockCodec final : public PageCodec {
 public:
  BlockCodec(TensorType type, bool rotated, std::size_t head_dim, Isa isa)
      : PageCodec(round_up(head_dim, gguf::kBlock),
                  kernels::kPageTokens * gguf::row_bytes(type, round_up(head_dim, gguf::kBlock))),
        type_(type),
        head_dim_(head_dim),
        transform_(rotated ? kernels::fwht(isa) : nullptr),
        encode_(kernels::encoders(isa).of(type)),
        kernels_(&kernels::attention(isa).of(type)),
        decoded_(&kernels::attention(isa).of(TensorType::f32)) {}

  float largest_storable() const override { return kernels::largest_storable(type_); }

  void rotate(float* x) const noexcept override {
    std::fill(x + head_dim_, x + dims(), 0.0F);
    unrotate(x);
  }
  void unrotate(float* x) const noexcept override {
    if (transform_ != nullptr) kernels::rotate_head(transform_, x, head_dim_);
  }
  bool store(float* x, std::byte* page, std::size_t token) const override {
    rotate(x);
    return encode_(x, dims(), page + token * (page_bytes() / kernels::kPageTokens));
  }

  void reserve(QueryRows& q, std::size_t rows) const override { q.reserve(rows * dims(), 0, 0); }
  void prepare(QueryRows&, std::size_t) const noexcept override {}
  void score(const PageCall& call, const QueryRows& q, float* logits) const noexcept override {
    const bool fused = call.rows <= kFusedRows;
    const std::byte* keys = fused ? call.page : decode(call);
    (fused ? kernels_ : decoded_)->score({q.f32.data(), call.rows, dims(), keys, call.tokens, logits, call.next});
  }
  void mix(const PageCall& call, const float* weights, float* out) const noexcept override {
    const bool fused = call.rows <= kFusedRows;
    const std::byte* values = fused ? call.page : decode(call);
    (fused ? kernels_ : decoded_)->mix({weights, call.rows, dims(), values, call.tokens, out, call.next});
  }
  std::size_t constant_bytes() const noexcept override { return 0; }

 private:
  /// The page in f32, as pages of that type lie.
  const std::byte* decode(const PageCall& call) const noexcept {
    kernels_->decode(call.page, call.tokens * dims(), call.scratch);
    return reinterpret_cast<const std::byte*>(call.scratch);
  }

  TensorType type_;
  std::size_t head_dim_;
  kernels::FwhtFunction transform_;  ///< null where vectors are stored as they are
  kernels::EncodeFunction encode_;
  const kernels::TypeKernels* kernels_;
  const kernels::TypeKernels* decoded_;  ///< for pages that were decoded to f32
};

}  // namespace

std::unique_ptr<PageCodec> make_block_codec(TensorType type, bool rotated, std::size_t head_dim, Isa isa) {
  return std::make_unique<BlockCodec>(type, rotated, head_dim, isa);
}

}  // namespace kvant::cache
