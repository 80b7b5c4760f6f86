#include "base/hash.h"

#define XXH_INLINE_ALL  // the header alone, nothing to link
#include <xxhash.h>

namespace kvant {

std::uint64_t hash_bytes(std::span<const std::byte> bytes) noexcept { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace kvant
