#include "cache/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "base/checked.h"
#include "base/error.h"

namespace kvant::cache {
namespace {

using std::filesystem::path;

/// The number behind `key` in a file of lines "key number" (an empty key: the file's first word).
std::optional<std::size_t> read_number(const path& file, const std::string& key) {
  std::ifstream in(file);
  std::string word;
  while (!key.empty() && in >> word && word != key) {
  }
  std::size_t number = 0;
  if (in >> number) return number;
  return std::nullopt;
}

/// What a control group's limit leaves; nothing when there is no limit ("max", or the huge number of version 1).
std::optional<std::size_t> left_in_group(const path& limit_file, const path& usage_file, const path& stat_file) {
  const auto limit = read_number(limit_file, "");
  const auto usage = read_number(usage_file, "");
  if (!limit || !usage) return std::nullopt;
  const std::size_t cached =
      read_number(stat_file, "inactive_file").value_or(0) + read_number(stat_file, "active_file").value_or(0);
  const std::size_t used = *usage - std::min(*usage, cached);
  return *limit - std::min(*limit, used);
}

}  // namespace

std::size_t available_memory(const path& root) {
  std::size_t available = std::numeric_limits<std::size_t>::max();
  if (const auto kib = read_number(root / "proc/meminfo", "MemAvailable:")) available = *kib * 1024;
  const path v2 = root / "sys/fs/cgroup";
  const path v1 = v2 / "memory";
  for (const auto& left :
       {left_in_group(v2 / "memory.max", v2 / "memory.current", v2 / "memory.stat"),
        left_in_group(v1 / "memory.limit_in_bytes", v1 / "memory.usage_in_bytes", v1 / "memory.stat")}) {
    if (left) available = std::min(available, *left);
  }
  return available;
}

/// Below this, pages of the usual size waste less.
constexpr std::size_t kHugeFrom = std::size_t{8} << 20;

Memory::Memory(std::size_t bytes)
    : bytes_(round_up(std::max<std::size_t>(bytes, 1), static_cast<std::size_t>(sysconf(_SC_PAGESIZE)))) {
  void* data = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  KVANT_CHECK(data != MAP_FAILED, ErrorCode::out_of_memory, "cannot allocate {} bytes for the cache", bytes_);
  data_ = static_cast<std::byte*>(data);
  // Attention streams through all of it: fewer and larger pages of the kernel, where it gives them.
  if (bytes_ >= kHugeFrom) madvise(data, bytes_, MADV_HUGEPAGE);
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

}  // namespace kvant::cache
