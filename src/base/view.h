#pragma once
#include <cstddef>
#include <span>
#include <type_traits>

#include "base/error.h"

namespace kvant {

/// A row-major matrix that somebody else owns: rows of `cols` values, `stride` values apart.
template <class T>
struct MatView {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t stride = 0;  ///< in elements, >= cols

  MatView() = default;
  MatView(T* data_, std::size_t rows_, std::size_t cols_) : data(data_), rows(rows_), cols(cols_), stride(cols_) {}
  MatView(T* data_, std::size_t rows_, std::size_t cols_, std::size_t stride_)
      : data(data_), rows(rows_), cols(cols_), stride(stride_) {}
  /// A view of mutable values is a view of constant ones.
  template <class U>
  requires std::is_same_v<const U, T> MatView(const MatView<U>& other)
      : data(other.data), rows(other.rows), cols(other.cols), stride(other.stride) {}

  std::span<T> row(std::size_t r) const {
    KVANT_ASSERT(r < rows);
    return {data + r * stride, cols};
  }
  /// Rows [first, first + count).
  MatView rows_from(std::size_t first, std::size_t count) const {
    KVANT_ASSERT(first + count <= rows);
    return {data + first * stride, count, cols, stride};
  }
};

}  // namespace kvant
