#pragma once
#include <cstddef>
#include <vector>

#include "kernels/attention/attention.h"

namespace kvant::cache {

using kernels::kPageTokens;

/// What a layer's pages are: for each sequence and KV head a run of pages of 64 tokens.
struct PageGrid {
  std::size_t sequences = 0;
  std::size_t pages = 0;                ///< of each sequence
  std::vector<std::size_t> page_bytes;  ///< of each KV head

  std::size_t sequence_bytes() const {
    std::size_t bytes = 0;
    for (const std::size_t head : page_bytes) bytes += pages * head;
    return bytes;
  }
  std::size_t bytes() const { return sequences * sequence_bytes(); }
};

/// The K or the V of one layer: pages in the order [sequence][kv_head][page].
class PageStore {
 public:
  /// data  grid.bytes() of memory
  PageStore(const PageGrid& grid, std::byte* data)
      : page_bytes_(grid.page_bytes), sequence_bytes_(grid.sequence_bytes()), data_(data) {
    for (std::size_t offset = 0; const std::size_t bytes : page_bytes_) {
      offsets_.push_back(offset);
      offset += grid.pages * bytes;
    }
  }

  std::byte* page(std::size_t sequence, std::size_t kv_head, std::size_t index) const noexcept {
    return data_ + sequence * sequence_bytes_ + offsets_[kv_head] + index * page_bytes_[kv_head];
  }
  std::size_t page_bytes(std::size_t kv_head) const noexcept { return page_bytes_[kv_head]; }

 private:
  std::vector<std::size_t> page_bytes_, offsets_;  ///< [kv_heads]
  std::size_t sequence_bytes_;
  std::byte* data_;
};

}  // namespace kvant::cache
