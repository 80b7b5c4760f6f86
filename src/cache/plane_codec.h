#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cache/page_codec.h"
#include "codec/shaping.h"
#include "codec/vector_codec.h"
#include "kernels/codes/codes.h"
#include "kernels/fwht/fwht.h"

namespace kvant::cache {

/// Codes of lm or uni in bit planes: of whole vectors, or of a part of longer ones.
class PlaneCodec final : public PageCodec {
 public:
  /// As make_plane_codec (page_codec.h).
  PlaneCodec(const codec::CacheSpec& spec, codec::PageSide side, std::size_t head_dim, Isa isa);

  float largest_storable() const override { return codec::kMaxMagnitude; }
  void rotate(float* x) const noexcept override;
  void unrotate(float* x) const noexcept override;
  bool store(float* x, std::byte* page, std::size_t token) const override;
  void reserve(QueryRows& q, std::size_t rows) const override;
  void prepare(QueryRows& q, std::size_t rows) const noexcept override;
  void score(const PageCall& call, const QueryRows& q, float* logits) const noexcept override;
  void mix(const PageCall& call, const float* weights, float* out) const noexcept override;
  std::unique_ptr<PageCodec> shaped(std::span<const float> metric) const override;
  std::size_t constant_bytes() const noexcept override;

  // For a part of longer vectors.

  /// Whole numbers that stand for a query, and units, or sums, of them.
  std::size_t query_values() const noexcept { return planes_ * dims(); }
  std::size_t query_scales() const noexcept { return planes_ * groups_.size(); }
  struct Queries {
    std::int8_t* values;  ///< [rows][query_values()]
    float* units;         ///< [rows][query_scales()]
    std::int32_t* sums;   ///< likewise
  };
  /// As prepare(), with rows of f32 `stride` values apart.
  void prepare(const float* q, std::size_t stride, std::size_t rows, const Queries& to) const noexcept;
  /// As score(), with what prepare() made (q.planes is set here); adds to logits if asked.
  void score(const PageCall& call, kernels::QuantizedQueries q, float* logits, bool add) const noexcept;
  /// As mix(), with rows of out `stride` values apart.
  void mix(const PageCall& call, const float* weights, float* out, std::size_t stride) const noexcept;

 private:
  /// Consecutive dims with a rotation and a scale of their own.
  struct Group {
    std::size_t first, size;  ///< dims of the head
    std::size_t offset;       ///< of the first in the stored vector
  };
  struct Layout {
    std::vector<Group> groups;
    std::vector<codec::Quantizer> quantizers;
    kernels::CodedPages pages;
  };

  PlaneCodec(const codec::CacheSpec& spec, Layout layout, std::size_t head_dim, Isa isa);
  static std::vector<Group> cut(std::size_t head_dim, std::size_t size);
  static Layout lay_out(const codec::CacheSpec& spec, codec::PageSide side, std::size_t head_dim);
  void add_shaping(std::span<const float> metric);

  codec::ScaleFormat norm_;
  std::size_t planes_;  ///< of the queries
  std::size_t head_dim_;
  std::vector<Group> groups_;
  std::vector<codec::Quantizer> quantizers_;  ///< of each group
  kernels::CodedPages pages_;
  kernels::FwhtFunction transform_;
  void (*score_)(const kernels::CodeScoreArgs&) noexcept;
  void (*mix_)(const kernels::CodeMixArgs&) noexcept;
  int largest_query_;
  std::vector<float> signs_;
  std::vector<codec::Shaping> shaping_;  ///< of each group, or none
};

}  // namespace kvant::cache
