#pragma once
#include <cstddef>
#include <filesystem>

namespace kvant::cache {

/// Bytes that this process may still take without swapping: what the kernel calls available, and no more than the
/// control group's limit leaves (memory that holds cached files counts as free). The largest value where nothing says.
/// root  folder that stands for "/"
std::size_t available_memory(const std::filesystem::path& root = "/");

/// Anonymous memory from the kernel, zeroed; parts that are never touched cost nothing. Throws out_of_memory.
class Memory {
 public:
  explicit Memory(std::size_t bytes);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  std::byte* data() const noexcept { return data_; }
  /// As allocated: whole pages of the kernel.
  std::size_t bytes() const noexcept { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace kvant::cache
