#pragma once
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/aligned_buffer.h"
#include "cache/basis.h"
#include "cache/block_table.h"
#include "cache/memory.h"
#include "cache/page.h"
#include "cache/page_codec.h"
#include "cache/window.h"
#include "codec/spec.h"

namespace kvant::cache {

struct CacheConfig;

/// Where a new token goes, in one layer and KV head.
struct NewToken {
  std::size_t layer, kv_head, sequence;
  std::size_t position, slot;  ///< slot: of the block of its position
  std::size_t end;             ///< tokens that the sequence will have
};

/// The keys or the values of a cache: for each layer and KV head a basis, a codec, and a page in each slot of the pool.
class Side {
 public:
  struct Head {
    const PageCodec* codec = nullptr;
    HeadBasis basis;
  };

  /// Chooses codecs. Throws invalid_argument where the spec does not fit the sizes.
  Side(const CacheConfig& config, codec::PageSide side, Isa isa);

  /// Bytes that allocate() will ask for; a double, which no count can overflow.
  double planned_bytes() const;
  /// Chooses the bases of all heads, whose maps are in `maps`.
  void prepare(const CacheConfig& config, Maps& maps);
  /// Makes the pages; before it there are none.
  void allocate();

  const codec::CacheSpec& spec() const noexcept { return spec_; }
  codec::PageSide side() const noexcept { return side_; }
  /// Values of a stored vector, the same for all heads.
  std::size_t dims() const noexcept { return heads_.front().codec->dims(); }
  const Head& head(std::size_t layer, std::size_t kv_head) const noexcept {
    return heads_[layer * kv_heads_ + kv_head];
  }
  const PageStore& pages(std::size_t layer) const noexcept { return layers_[layer]; }
  /// What the anchors of keys add to logits; null where no head has one.
  const kernels::AnchorAngles* angles() const noexcept { return angles_ ? &*angles_ : nullptr; }
  kernels::AnchorFunction add_anchor() const noexcept { return add_anchor_; }
  /// Null where no tokens are kept in f16.
  Window* window() noexcept { return window_ ? &*window_ : nullptr; }
  const Window* window() const noexcept { return window_ ? &*window_ : nullptr; }

  /// Room for `rows` queries of any head.
  void reserve(QueryRows& q, std::size_t rows) const;
  /// Takes a head's vector (head_dim values; of keys before RoPE, angles [pairs][2] of its position) into the basis of
  /// storage and stores it. x [dims] is scratch. False when a value is NaN or too large.
  bool store(const NewToken& to, const float* vector, const float* angles, float* x) const;
  /// Copies a block to another slot.
  void copy_block(const BlockTable::Copy& slots);

  /// Memory that is one section of a saved cache.
  using Pieces = std::vector<std::span<std::byte>>;
  using Copies = std::deque<AlignedBuffer<std::byte>>;
  /// The sections of a saved cache that holds the first lengths[layer * sequences.size() + i] tokens of sequences[i],
  /// whose blocks lie where the table says. With `copies`, what may hold leftovers of other tokens is copied there, and
  /// zeros are stored in their place.
  std::vector<Pieces> contents(const BlockTable& blocks, std::span<const std::size_t> sequences,
                               std::span<const std::size_t> lengths, Copies* copies = nullptr);
  /// A hash of bases, window and codecs: bytes mean the same in caches that agree in it and in the spec's text.
  std::uint64_t identity() const;

  /// As allocated, with the window.
  std::size_t bytes() const noexcept;
  /// Of anchors, scales, tables and permutations: what does not depend on the number of tokens.
  std::size_t constant_bytes() const noexcept;

 private:
  void add_codecs(const CacheConfig& config, Isa isa);
  void add_flex_codecs(const CacheConfig& config, Isa isa);
  void add_uncoded_layer(std::size_t layer);
  void add_planned_codecs(const CacheConfig& config, Isa isa);
  std::vector<float> metric(const LayerConstants& constants, std::size_t layer, std::size_t kv_head) const;
  void shape_codecs(const CacheConfig& config);
  PageGrid grid(std::size_t layer) const;

  codec::CacheSpec spec_;
  codec::PageSide side_;
  Isa isa_;
  std::size_t layer_count_, kv_heads_, head_dim_, rope_pairs_, sequences_, slots_;
  std::vector<std::unique_ptr<PageCodec>> codecs_;
  std::vector<Head> heads_;  ///< [layers][kv_heads]
  std::optional<kernels::AnchorAngles> angles_;
  kernels::AnchorFunction add_anchor_;
  Window::Shape window_shape_{};
  std::optional<Window> window_;
  std::optional<Memory> memory_;  ///< of all pages
  std::vector<PageStore> layers_;
};

}  // namespace kvant::cache
