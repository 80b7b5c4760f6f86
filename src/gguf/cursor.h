#pragma once
#include <bit>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace kvant::gguf {

static_assert(std::endian::native == std::endian::little, "GGUF files are read in place");

/// What a part of a file describes, for error messages: {"tensor", "blk.0.attn_q.weight"}.
struct Place {
  std::string_view kind;
  std::string_view name;  ///< untrusted; empty when there is none

  std::string text() const { return name.empty() ? std::string(kind) : fmt::format("{} {}", kind, printable(name)); }
};

/// Throws "FILE: PLACE: message".
template <class... Args>
[[noreturn]] void fail_at(ErrorCode code, const std::string& file, const Place& place,
                          fmt::format_string<Args...> format, Args&&... args) {
  fail(code, "{}: {}: {}", file, place.text(), fmt::format(format, std::forward<Args>(args)...));
}

/// Reads untrusted little-endian bytes front to back. Every read is checked against the end and throws
/// Error{format} naming the file and the place.
class Cursor {
 public:
  /// `bytes` and `file` must outlive the cursor.
  Cursor(std::span<const std::byte> bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  const std::string& file() const noexcept { return file_; }
  std::size_t offset() const noexcept { return offset_; }
  std::size_t remaining() const noexcept { return bytes_.size() - offset_; }

  /// The next `size` bytes.
  std::span<const std::byte> take(std::uint64_t size, const Place& place) {
    if (size > remaining()) {
      fail_at(ErrorCode::format, file_, place, "{} bytes at offset {}, but the file ends after {}", size, offset_,
              remaining());
    }
    const auto taken = bytes_.subspan(offset_, static_cast<std::size_t>(size));
    offset_ += taken.size();
    return taken;
  }

  /// The next value of an arithmetic type.
  template <class T>
  T read(const Place& place) {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    T value;
    std::memcpy(&value, take(sizeof(T), place).data(), sizeof(T));
    return value;
  }

  /// The next string: a 64-bit length and its bytes.
  std::string_view string(const Place& place) {
    const auto bytes = take(read<std::uint64_t>(place), place);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  /// The next 64-bit count of items that take at least `least` bytes each, refused when they cannot fit.
  std::size_t count(std::size_t least, const Place& place) {
    const auto n = read<std::uint64_t>(place);
    if (n > remaining() / least) {
      fail_at(ErrorCode::format, file_, place, "count {} does not fit the {} bytes that follow", n, remaining());
    }
    return static_cast<std::size_t>(n);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& file_;
  std::size_t offset_ = 0;
};

}  // namespace kvant::gguf
