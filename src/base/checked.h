#pragma once
#include <cstddef>
#include <limits>
#include <string_view>

#include "base/error.h"

namespace kvant {

/// a * b for sizes that come from a file; throws a format error naming `what` when the product overflows.
inline std::size_t checked_mul(std::size_t a, std::size_t b, std::string_view what) {
  std::size_t product = 0;
  KVANT_CHECK(!__builtin_mul_overflow(a, b, &product), ErrorCode::format, "{}: {} * {} overflows", what, a, b);
  return product;
}

/// a + b for sizes that come from a file; throws a format error naming `what` when the sum overflows.
inline std::size_t checked_add(std::size_t a, std::size_t b, std::string_view what) {
  std::size_t sum = 0;
  KVANT_CHECK(!__builtin_add_overflow(a, b, &sum), ErrorCode::format, "{}: {} + {} overflows", what, a, b);
  return sum;
}

/// The least multiple of `step` (> 0) that is at least n.
constexpr std::size_t round_up(std::size_t n, std::size_t step) { return (n + step - 1) / step * step; }

}  // namespace kvant
