#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/file_io.h"

namespace kvant::cache {

/// The file of a saved cache: "KVANTKV\n", u32 version, u32 0, then sections, each u64 size, u64 XXH3-64 of its bytes,
/// and the bytes. Little-endian. What the sections hold is known to KvCache::save and load alone.
inline constexpr std::string_view kStateMagic = "KVANTKV\n";
inline constexpr std::uint32_t kStateVersion = 1;

/// Writes a file whole or not at all. Throws io.
class StateWriter {
 public:
  explicit StateWriter(const std::filesystem::path& path);
  void section(std::span<const std::byte> bytes) { section({&bytes, 1}); }
  /// A section of pieces, one after the other.
  void section(std::span<const std::span<const std::byte>> pieces);
  void finish() { file_.commit(); }

 private:
  void number(std::uint64_t value);
  AtomicFile file_;
};

/// Reads a file that anyone may have changed: sizes and hashes are checked before a section is given out. All members
/// throw format, naming the file, the section and both values.
class StateReader {
 public:
  /// bytes  the whole file, which must outlive this; `path` is for errors. Throws unsupported for another version.
  StateReader(std::span<const std::byte> bytes, std::string path);
  /// The next section; `name` is for errors.
  std::span<const std::byte> section(std::string_view name);
  /// The next section, which must have this size.
  std::span<const std::byte> section(std::string_view name, std::size_t size);
  /// Throws when bytes are left.
  void finish() const;

 private:
  std::span<const std::byte> take(std::string_view name, std::size_t size);
  std::uint64_t number(std::string_view name);
  std::span<const std::byte> bytes_;
  std::string path_;
  std::size_t at_ = 0;
};

}  // namespace kvant::cache
