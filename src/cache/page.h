#pragma once
#include <cstddef>
#include <numeric>
#include <vector>

#include "kernels/attention/attention.h"

namespace kvant::cache {

using kernels::kPageTokens;

/// What a layer's pages are: of each KV head as many pages of 64 tokens as the pool has slots.
struct PageGrid {
  std::size_t slots = 0;
  std::vector<std::size_t> page_bytes;  ///< of each KV head

  std::size_t bytes() const { return slots * std::accumulate(page_bytes.begin(), page_bytes.end(), std::size_t{0}); }
};

/// The K or the V of one layer: pages in the order [kv_head][slot].
class PageStore {
 public:
  /// data  grid.bytes() of memory
  PageStore(const PageGrid& grid, std::byte* data) : page_bytes_(grid.page_bytes) {
    for (const std::size_t bytes : page_bytes_) {
      heads_.push_back(data);
      data += grid.slots * bytes;
    }
  }

  std::byte* page(std::size_t kv_head, std::size_t slot) const noexcept {
    return heads_[kv_head] + slot * page_bytes_[kv_head];
  }
  std::size_t page_bytes(std::size_t kv_head) const noexcept { return page_bytes_[kv_head]; }

 private:
  std::vector<std::size_t> page_bytes_;  ///< [kv_heads]
  std::vector<std::byte*> heads_;        ///< [kv_heads] their first pages
};

}  // namespace kvant::cache
