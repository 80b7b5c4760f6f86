#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvant {

/// XXH3-64 (Collet, xxHash specification) of some bytes: names content, not meant against forgery.
std::uint64_t hash_bytes(std::span<const std::byte> bytes) noexcept;
/// The same of pieces as if they lay one after the other.
std::uint64_t hash_bytes(std::span<const std::span<const std::byte>> pieces) noexcept;

}  // namespace kvant
