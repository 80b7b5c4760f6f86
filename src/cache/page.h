#pragma once
#include <cstddef>

#include "base/checked.h"
#include "cache/memory.h"
#include "kernels/attention/attention.h"

namespace kvant::cache {

using kernels::kPageTokens;

/// What a layer's pages are: for each sequence and KV head a run of pages of 64 tokens, a vector for each token.
struct PageGrid {
  std::size_t sequences = 0, kv_heads = 0;
  std::size_t pages = 0;         ///< of each sequence
  std::size_t vector_bytes = 0;  ///< of one token

  std::size_t page_bytes() const { return kPageTokens * vector_bytes; }
  std::size_t bytes() const { return sequences * kv_heads * pages * page_bytes(); }
};

/// The K or the V of one layer: pages in the order [sequence][kv_head][page].
class PageStore {
 public:
  explicit PageStore(const PageGrid& grid) : grid_(grid), memory_(grid.bytes()) {}

  std::byte* page(std::size_t sequence, std::size_t kv_head, std::size_t index) const noexcept {
    return memory_.data() + ((sequence * grid_.kv_heads + kv_head) * grid_.pages + index) * grid_.page_bytes();
  }
  std::byte* vector(std::size_t sequence, std::size_t kv_head, std::size_t position) const noexcept {
    return page(sequence, kv_head, position / kPageTokens) + position % kPageTokens * grid_.vector_bytes;
  }
  std::size_t page_bytes() const noexcept { return grid_.page_bytes(); }
  /// As allocated.
  std::size_t bytes() const noexcept { return memory_.bytes(); }

 private:
  PageGrid grid_;
  Memory memory_;
};

}  // namespace kvant::cache
