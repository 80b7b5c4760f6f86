#include "cache/state_file.h"

#include <array>
#include <bit>
#include <cstring>

#include "base/error.h"
#include "base/hash.h"

namespace kvant::cache {
static_assert(std::endian::native == std::endian::little, "state files are written as memory lies");

StateWriter::StateWriter(const std::filesystem::path& path) : file_(path) {
  file_.write(kStateMagic);
  number(kStateVersion);
}

void StateWriter::number(std::uint64_t value) { file_.write(std::as_bytes(std::span(&value, 1))); }

void StateWriter::section(std::span<const std::span<const std::byte>> pieces) {
  std::size_t size = 0;
  for (const auto piece : pieces) size += piece.size();
  number(size);
  number(hash_bytes(pieces));
  for (const auto piece : pieces) file_.write(piece);
}

StateReader::StateReader(std::span<const std::byte> bytes, std::string path) : bytes_(bytes), path_(std::move(path)) {
  const auto magic = take("magic", kStateMagic.size());
  KVANT_CHECK(std::memcmp(magic.data(), kStateMagic.data(), magic.size()) == 0, ErrorCode::format,
              "{}: not the file of a saved cache", path_);
  const std::uint64_t version = number("version");
  KVANT_CHECK(version == kStateVersion, ErrorCode::unsupported, "{}: saved cache of version {}, expected {}", path_,
              version, kStateVersion);
}

std::span<const std::byte> StateReader::take(std::string_view name, std::size_t size) {
  const std::size_t left = bytes_.size() - at_;
  KVANT_CHECK(size <= left, ErrorCode::format, "{}: {}: needs {} bytes, the file has {} left", path_, name, size, left);
  const auto bytes = bytes_.subspan(at_, size);
  at_ += size;
  return bytes;
}

std::uint64_t StateReader::number(std::string_view name) {
  std::uint64_t value = 0;
  std::memcpy(&value, take(name, sizeof value).data(), sizeof value);
  return value;
}

std::span<const std::byte> StateReader::section(std::string_view name) {
  const std::uint64_t size = number(name);
  const std::uint64_t hash = number(name);
  const auto bytes = take(name, size);
  const std::uint64_t actual = hash_bytes(bytes);
  KVANT_CHECK(actual == hash, ErrorCode::format, "{}: {}: hash {:016x}, expected {:016x}", path_, name, actual, hash);
  return bytes;
}

std::span<const std::byte> StateReader::section(std::string_view name, std::size_t size) {
  const auto bytes = section(name);
  KVANT_CHECK(bytes.size() == size, ErrorCode::format, "{}: {}: {} bytes, expected {}", path_, name, bytes.size(),
              size);
  return bytes;
}

void StateReader::finish() const {
  KVANT_CHECK(at_ == bytes_.size(), ErrorCode::format, "{}: {} bytes, expected {}", path_, bytes_.size(), at_);
}

}  // namespace kvant::cache
