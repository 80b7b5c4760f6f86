#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace kvant {

/// Writes a file whole or not at all: bytes go to a file beside `path` that has no name yet (or, where the file system
/// has no such files, a temporary one), commit() flushes it to the disk and renames it over `path`. Without commit
/// nothing is left. All members throw io, naming the path.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Number of bytes written so far.
  std::size_t size() const noexcept { return size_; }
  void commit();

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  std::size_t size_ = 0;
};

/// The whole of a text file, or of standard input when path is "-". Throws io; out_of_memory when it is over
/// `limit` bytes.
std::string read_text(const std::string& path, std::size_t limit = std::size_t{1} << 32);

}  // namespace kvant
