#include <array>
#include <cmath>
#include <string>

#include "base/hash.h"
#include "cache/page_codec.h"

namespace kvant::cache {
namespace {

using codec::kFlexDims;

/// Keys in a flex layout. There for comparison, not for speed: pages are decoded by the reference code.
class FlexPageCodec final : public PageCodec {
 public:
  FlexPageCodec(std::shared_ptr<const codec::FlexCodec> flex, const codec::FlexChannels& channels, Isa isa)
      : PageCodec(kFlexDims, kernels::kPageTokens * flex->bytes()),
        flex_(std::move(flex)),
        channels_(channels),
        decoded_(&kernels::attention(isa).of(gguf::TensorType::f32)) {}

  float largest_storable() const override { return kLargest; }

  void rotate(float* x) const noexcept override {
    std::array<float, kFlexDims> rotated;
    flex_->rotate({x, kFlexDims}, channels_, rotated);
    std::copy(rotated.begin(), rotated.end(), x);
  }
  void unrotate(float*) const noexcept override {}  // of values, which flex does not store
  bool store(float* x, std::byte* page, std::size_t token) const override {
    for (std::size_t i = 0; i < kFlexDims; ++i) {
      if (!(std::abs(x[i]) <= kLargest)) return false;
    }
    return flex_->encode({x, kFlexDims}, channels_, {page + token * flex_->bytes(), flex_->bytes()});
  }

  void reserve(QueryRows& q, std::size_t rows) const override { q.reserve(rows * dims(), 0, 0); }
  void prepare(QueryRows&, std::size_t) const noexcept override {}
  void score(const PageCall& call, const QueryRows& q, float* logits) const noexcept override {
    std::array<double, kFlexDims> key;
    for (std::size_t t = 0; t < call.tokens; ++t) {
      flex_->decode_rotated({call.page + t * flex_->bytes(), flex_->bytes()}, key);
      for (std::size_t i = 0; i < kFlexDims; ++i) call.scratch[t * kFlexDims + i] = static_cast<float>(key[i]);
    }
    decoded_->score({q.f32.data(), call.rows, dims(), reinterpret_cast<const std::byte*>(call.scratch), call.tokens,
                     logits, call.next});
  }
  void mix(const PageCall&, const float*, float*) const noexcept override {}
  std::size_t constant_bytes() const noexcept override { return sizeof channels_; }
  std::uint64_t identity() const noexcept override {
    const std::string layout = codec::to_string(flex_->spec());
    return hash_bytes(std::as_bytes(std::span(channels_.order))) ^ hash_bytes(std::as_bytes(std::span(layout)));
  }

 private:
  static constexpr float kLargest = 0x1p59F;

  std::shared_ptr<const codec::FlexCodec> flex_;
  codec::FlexChannels channels_;
  const kernels::TypeKernels* decoded_;
};

}  // namespace

std::unique_ptr<PageCodec> make_flex_codec(std::shared_ptr<const codec::FlexCodec> codec,
                                           const codec::FlexChannels& channels, Isa isa) {
  return std::make_unique<FlexPageCodec>(std::move(codec), channels, isa);
}

}  // namespace kvant::cache
