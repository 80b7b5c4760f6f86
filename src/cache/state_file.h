#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/file_io.h"
#include "base/mapped_file.h"

namespace kvant::cache {

/// The file of a saved cache: "KVANTKV\n", u32 version, u32 0, then sections, each u64 size, u64 XXH3-64 of its bytes,
/// and the bytes. Little-endian. What the sections hold is known to KvCache::save and load alone.
inline constexpr std::string_view kStateMagic = "KVANTKV\n";
inline constexpr std::uint32_t kStateVersion = 1;

/// Writes a file whole or not at all. Throws io.
class StateWriter {
 public:
  explicit StateWriter(const std::filesystem::path& path);
  void section(std::span<const std::byte> bytes);
  void finish() { file_.commit(); }

 private:
  void number(std::uint64_t value);
  AtomicFile file_;
};

/// Reads a file that anyone may have changed: sizes and hashes are checked before a section is given out. All members
/// throw format, naming the file, the section and both values.
class StateReader {
 public:
  /// Throws io as well, and unsupported for another version.
  explicit StateReader(const std::filesystem::path& path);
  /// The next section; `name` is for errors.
  std::span<const std::byte> section(std::string_view name);
  /// The next section, which must have this size.
  std::span<const std::byte> section(std::string_view name, std::size_t size);
  /// Throws when bytes are left.
  void finish() const;
  std::string path() const { return file_.path().string(); }

 private:
  std::span<const std::byte> take(std::string_view name, std::size_t size);
  std::uint64_t number(std::string_view name);
  MappedFile file_;
  std::size_t at_ = 0;
};

}  // namespace kvant::cache
