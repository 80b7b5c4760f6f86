#include "base/aligned_buffer.h"

#include <sys/mman.h>

namespace kvant {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kHugeFrom = 2 * kHugePage;

}  // namespace

void* allocate_aligned(std::size_t bytes) noexcept {
  if (bytes < kHugeFrom) return std::aligned_alloc(64, bytes);
  void* data = nullptr;
  if (::posix_memalign(&data, kHugePage, bytes) != 0) return nullptr;  // aligned_alloc wants whole huge pages
  ::madvise(data, bytes, MADV_HUGEPAGE);                               // a wish: small pages do as well
  return data;
}

}  // namespace kvant
