#include "base/aligned_buffer.h"

#include <sys/mman.h>

namespace kvant {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kHugeFrom = 16 * kHugePage;

}  // namespace

void* allocate_aligned(std::size_t bytes) noexcept {
  if (bytes < kHugeFrom) return std::aligned_alloc(64, bytes);
  void* data = std::aligned_alloc(kHugePage, bytes);
  // A wish: small pages do as well.
  if (data != nullptr) ::madvise(data, bytes, MADV_HUGEPAGE);
  return data;
}

}  // namespace kvant
