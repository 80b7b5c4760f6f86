#pragma once
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/reader.h"

namespace kvant::gguf {

/// A C++ type that a metadata value or array item can have as it stands.
template <class T>
concept Scalar = std::same_as<T, std::uint8_t> || std::same_as<T, std::int8_t> || std::same_as<T, std::uint16_t> ||
    std::same_as<T, std::int16_t> || std::same_as<T, std::uint32_t> || std::same_as<T, std::int32_t> ||
    std::same_as<T, std::uint64_t> || std::same_as<T, std::int64_t> || std::same_as<T, float> ||
    std::same_as<T, double> || std::same_as<T, bool>;

/// The value type that stores a scalar of type T.
template <Scalar T>
consteval ValueType value_type() {
  if constexpr (std::same_as<T, bool>) return ValueType::boolean;
  if constexpr (std::same_as<T, float>) return ValueType::f32;
  if constexpr (std::same_as<T, double>) return ValueType::f64;
  if constexpr (std::same_as<T, std::uint8_t>) return ValueType::u8;
  if constexpr (std::same_as<T, std::int8_t>) return ValueType::i8;
  if constexpr (std::same_as<T, std::uint16_t>) return ValueType::u16;
  if constexpr (std::same_as<T, std::int16_t>) return ValueType::i16;
  if constexpr (std::same_as<T, std::uint32_t>) return ValueType::u32;
  if constexpr (std::same_as<T, std::int32_t>) return ValueType::i32;
  if constexpr (std::same_as<T, std::uint64_t>) return ValueType::u64;
  if constexpr (std::same_as<T, std::int64_t>) return ValueType::i64;
}

/// Collects metadata and tensors and writes them as a GGUF file of version 3 with alignment 32. Metadata are copied;
/// tensor data are asked for when the file is written. Misuse (a name twice, a shape that its type cannot have, data of
/// another size, the key general.alignment) throws invalid_argument naming key or tensor.
class Writer {
 public:
  /// Takes the next bytes of a tensor.
  using Sink = std::function<void(std::span<const std::byte>)>;
  /// Passes all bytes of a tensor, in pieces of any size, to a sink.
  using Producer = std::function<void(const Sink&)>;

  /// Adds a value as File::metadata() gives it.
  void set(std::string_view key, const Value& value);
  void set(std::string_view key, std::string_view text) { set(key, Value{ValueType::string, text}); }
  template <Scalar T>
  void set(std::string_view key, T value) {
    if constexpr (std::same_as<T, bool>) {
      set(key, Value{ValueType::boolean, value});
    } else if constexpr (std::floating_point<T>) {
      set(key, Value{value_type<T>(), static_cast<double>(value)});
    } else if constexpr (std::signed_integral<T>) {
      set(key, Value{value_type<T>(), static_cast<std::int64_t>(value)});
    } else {
      set(key, Value{value_type<T>(), static_cast<std::uint64_t>(value)});
    }
  }
  /// Adds an array of scalars.
  template <std::ranges::contiguous_range Items>
  requires Scalar<std::ranges::range_value_t<Items>>
  void set(std::string_view key, const Items& items) {
    using T = std::ranges::range_value_t<Items>;
    const std::span<const T> values(items);
    set(key, Value{ValueType::array, Array{value_type<T>(), values.size(), std::as_bytes(values)}});
  }
  /// Adds an array of strings.
  template <std::ranges::input_range Items>
  requires std::convertible_to<std::ranges::range_value_t<Items>, std::string_view>
  void set(std::string_view key, const Items& items) { set_texts(key, {std::begin(items), std::end(items)}); }

  /// Adds a tensor; `shape` in GGUF order (shape[0] is the row length). `data` must live until write().
  void add(std::string name, TensorType type, std::vector<std::size_t> shape, std::span<const std::byte> data);
  /// The same with data that `producer` streams during write(). It must give the same bytes each time.
  void add(std::string name, TensorType type, std::vector<std::size_t> shape, Producer producer);

  /// Writes the file whole or not at all. Throws io.
  void write(const std::filesystem::path& path) const;
  /// The file's bytes in memory.
  std::vector<std::byte> bytes() const;

 private:
  struct Item {
    std::string name;
    TensorType type;
    std::vector<std::size_t> shape;
    std::size_t size;  ///< bytes
    Producer producer;
  };

  void set_texts(std::string_view key, const std::vector<std::string_view>& texts);
  void emit(const Sink& sink) const;

  std::vector<std::string> keys_;
  std::string metadata_;  ///< encoded
  std::vector<Item> tensors_;
};

}  // namespace kvant::gguf
