#pragma once
#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <type_traits>

#include "base/checked.h"
#include "base/error.h"

namespace kvant {

/// Memory on a 64-byte boundary for std::free, null where there is none. From 4 MiB on it asks the system for pages of
/// 2 MiB, where it has them: reading a large cache misses the TLB at every 4-KiB page.
void* allocate_aligned(std::size_t bytes) noexcept;

/// Owns `size` values of a trivial type on a 64-byte boundary, uninitialised. At least 64 readable bytes follow the
/// last value, so that a kernel may load whole registers. Throws out_of_memory.
template <class T>
class AlignedBuffer {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t size) : size_(size) {
    const std::size_t bytes = round_up(checked_add(checked_mul(size, sizeof(T), "buffer"), 64, "buffer"), 64);
    data_.reset(static_cast<T*>(allocate_aligned(bytes)));
    KVANT_CHECK(data_ != nullptr, ErrorCode::out_of_memory, "cannot allocate {} bytes", bytes);
  }

  T* data() noexcept { return data_.get(); }
  const T* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return size_; }
  std::size_t size_bytes() const noexcept { return size_ * sizeof(T); }
  T& operator[](std::size_t i) noexcept { return data_.get()[i]; }
  const T& operator[](std::size_t i) const noexcept { return data_.get()[i]; }
  T* begin() noexcept { return data_.get(); }
  T* end() noexcept { return data_.get() + size_; }
  const T* begin() const noexcept { return data_.get(); }
  const T* end() const noexcept { return data_.get() + size_; }
  std::span<T> span() noexcept { return {data_.get(), size_}; }
  std::span<const T> span() const noexcept { return {data_.get(), size_}; }

 private:
  struct Free {
    void operator()(T* p) const noexcept { std::free(p); }
  };
  std::unique_ptr<T[], Free> data_;
  std::size_t size_ = 0;
};

}  // namespace kvant
