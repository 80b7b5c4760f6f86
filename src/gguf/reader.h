#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "gguf/types.h"

namespace kvant::gguf {

enum class ValueType : std::uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// An array value as it lies in the file; all elements were bounds-checked when the file was opened.
struct Array {
  ValueType item;
  std::size_t count;
  std::span<const std::byte> bytes;  ///< the elements, strings with their length prefixes
};

/// One metadata value. Integers are widened to 64 bits and floats to double; `type` tells what the file has.
struct Value {
  ValueType type;
  std::variant<std::uint64_t, std::int64_t, double, bool, std::string_view, Array> data;
};

/// A tensor whose bytes lie in the mapped file.
struct Tensor {
  std::string_view name;
  TensorType type;
  std::vector<std::size_t> shape;  ///< GGUF order: shape[0] is the row length (fastest)
  std::span<const std::byte> data;

  std::size_t cols() const { return shape.empty() ? 1 : shape[0]; }
  std::size_t rows() const;  ///< product of the other dimensions
  std::size_t values() const { return rows() * cols(); }
  /// "[1536,256]" in the file's order.
  std::string shape_text() const;
};

/// A GGUF file (versions 2 and 3, little-endian), or all files of a split model, mapped read-only. Views returned by
/// its members live as long as the object. Every count, length, type, dimension and offset is checked on opening;
/// errors are kvant::Error{io|format|unsupported} of the form "FILE: what is wrong".
class File {
 public:
  /// Opens `path`; of a split model (NAME-00001-of-0000N.gguf) any part, and with it all the others.
  static File open(const std::filesystem::path& path);
  /// Parses one unsplit file held in memory (not copied); `name` stands for the path in errors.
  static File parse(std::span<const std::byte> bytes, std::string name);
  File(File&&) noexcept;
  File& operator=(File&&) noexcept;
  ~File();

  const std::string& path() const noexcept;
  std::uint32_t version() const noexcept;
  std::uint64_t size_bytes() const noexcept;  ///< of all parts

  struct Entry {
    std::string_view key;
    Value value;
  };
  std::span<const Entry> metadata() const noexcept;
  const Value* find(std::string_view key) const noexcept;

  // Typed access. Each throws Error{format} naming file, key and both types when the key is absent (unless a fallback
  // is given) or has another kind of value, or an integer does not fit.
  std::uint64_t integer(std::string_view key) const;
  std::uint64_t integer(std::string_view key, std::uint64_t fallback) const;
  double number(std::string_view key) const;  ///< a float or an integer
  double number(std::string_view key, double fallback) const;
  bool boolean(std::string_view key, bool fallback) const;
  std::string_view text(std::string_view key) const;
  std::string_view text(std::string_view key, std::string_view fallback) const;
  std::vector<std::string_view> texts(std::string_view key) const;  ///< an array of strings
  std::vector<float> floats(std::string_view key) const;            ///< an array of f32 or f64
  std::vector<std::int64_t> integers(std::string_view key) const;   ///< an array of any integer type or bools

  std::span<const Tensor> tensors() const noexcept;
  const Tensor* find_tensor(std::string_view name) const noexcept;
  /// Throws Error{format} "FILE: tensor NAME: not in the file".
  const Tensor& tensor(std::string_view name) const;

 private:
  struct Impl;
  explicit File(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant::gguf
