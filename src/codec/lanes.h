#pragma once
#include <cstddef>
#include <cstdint>

namespace kvant::codec {

/// Four values that are computed with side by side, each rounded as if alone: baseline code that is fast at every
/// optimization level and gives the same bits as a loop.
using Four [[gnu::vector_size(16)]] = float;
using FourInts [[gnu::vector_size(16)]] = std::int32_t;
inline constexpr std::size_t kLanes = 4;

template <class Lanes = Four>
Lanes load(const void* p) {
  Lanes v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class Lanes>
void store(void* p, Lanes v) {
  __builtin_memcpy(p, &v, sizeof v);
}

}  // namespace kvant::codec
