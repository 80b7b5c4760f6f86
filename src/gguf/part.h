#pragma once
#include <string>
#include <utility>
#include <vector>

#include "gguf/reader.h"

namespace kvant::gguf {

/// Positions by name, sorted: look-up without hashing untrusted names.
class NameIndex {
 public:
  void add(std::string_view name, std::size_t position) { items_.emplace_back(name, position); }
  /// Sorts; returns a name that was added twice, or nullptr.
  const std::string_view* finish();
  /// The position of a name, or nullptr. Only after finish().
  const std::size_t* find(std::string_view name) const noexcept;

 private:
  std::vector<std::pair<std::string_view, std::size_t>> items_;
};

/// One GGUF file, parsed and checked; views point into its bytes.
struct Part {
  std::uint32_t version = 0;
  std::vector<File::Entry> metadata;
  NameIndex keys;
  std::vector<Tensor> tensors;

  const Value* find(std::string_view key) const noexcept;
};

/// Parses a file's bytes. `file` names it in errors; throws Error{format|unsupported}.
Part parse_part(std::span<const std::byte> bytes, const std::string& file);

/// Bytes of one value of a type, 0 for strings and arrays.
std::size_t value_bytes(ValueType type) noexcept;
/// "u32", "string": the type's name in messages.
std::string_view name(ValueType type) noexcept;

}  // namespace kvant::gguf
