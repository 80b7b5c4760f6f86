#include <cstring>
#include <limits>

#include "gguf/cursor.h"
#include "gguf/part.h"
#include "gguf/reader.h"

// Typed access to metadata.
namespace kvant::gguf {
namespace {

/// "array of string" or "u32".
std::string describe(const Value& value) {
  const auto* array = std::get_if<Array>(&value.data);
  return array == nullptr ? std::string(name(value.type)) : fmt::format("array of {}", name(array->item));
}

[[noreturn]] void fail_type(const File& file, std::string_view key, const Value& value, std::string_view expected) {
  fail_at(ErrorCode::format, file.path(), {"metadata", key}, "type {}, expected {}", describe(value), expected);
}

const Value& require(const File& file, std::string_view key, std::string_view expected) {
  const Value* value = file.find(key);
  if (value == nullptr) fail_at(ErrorCode::format, file.path(), {"metadata", key}, "missing, expected {}", expected);
  return *value;
}

constexpr std::string_view kInteger = "an integer";
constexpr std::string_view kNumber = "a number";
constexpr std::string_view kBoolean = "boolean";
constexpr std::string_view kString = "string";

std::uint64_t to_integer(const File& file, std::string_view key, const Value& value) {
  if (const auto* number = std::get_if<std::uint64_t>(&value.data)) return *number;
  const auto* number = std::get_if<std::int64_t>(&value.data);
  if (number == nullptr) fail_type(file, key, value, kInteger);
  if (*number < 0) fail_at(ErrorCode::format, file.path(), {"metadata", key}, "{}, expected 0 or more", *number);
  return static_cast<std::uint64_t>(*number);
}

double to_number(const File& file, std::string_view key, const Value& value) {
  if (const auto* number = std::get_if<double>(&value.data)) return *number;
  if (const auto* number = std::get_if<std::uint64_t>(&value.data)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<std::int64_t>(&value.data)) return static_cast<double>(*number);
  fail_type(file, key, value, kNumber);
}

std::string_view to_text(const File& file, std::string_view key, const Value& value) {
  const auto* text = std::get_if<std::string_view>(&value.data);
  if (text == nullptr) fail_type(file, key, value, kString);
  return *text;
}

const Array& require_array(const File& file, std::string_view key, std::string_view expected) {
  const Value& value = require(file, key, expected);
  const auto* array = std::get_if<Array>(&value.data);
  if (array == nullptr) fail_type(file, key, value, expected);
  return *array;
}

/// Appends an array's items, stored as T, converted by `convert`.
template <class T, class Out, class Convert>
void append(const Array& array, std::vector<Out>& out, Convert convert) {
  for (std::size_t i = 0; i < array.count; ++i) {
    T item;
    std::memcpy(&item, array.bytes.data() + i * sizeof(T), sizeof(T));
    out.push_back(convert(item));
  }
}

}  // namespace

std::uint64_t File::integer(std::string_view key) const {
  return to_integer(*this, key, require(*this, key, kInteger));
}

std::uint64_t File::integer(std::string_view key, std::uint64_t fallback) const {
  const Value* value = find(key);
  return value == nullptr ? fallback : to_integer(*this, key, *value);
}

double File::number(std::string_view key) const { return to_number(*this, key, require(*this, key, kNumber)); }

double File::number(std::string_view key, double fallback) const {
  const Value* value = find(key);
  return value == nullptr ? fallback : to_number(*this, key, *value);
}

bool File::boolean(std::string_view key, bool fallback) const {
  const Value* value = find(key);
  if (value == nullptr) return fallback;
  const auto* boolean = std::get_if<bool>(&value->data);
  if (boolean == nullptr) fail_type(*this, key, *value, kBoolean);
  return *boolean;
}

std::string_view File::text(std::string_view key) const { return to_text(*this, key, require(*this, key, kString)); }

std::string_view File::text(std::string_view key, std::string_view fallback) const {
  const Value* value = find(key);
  return value == nullptr ? fallback : to_text(*this, key, *value);
}

std::vector<std::string_view> File::texts(std::string_view key) const {
  constexpr std::string_view expected = "array of string";
  const Array& array = require_array(*this, key, expected);
  if (array.item != ValueType::string) fail_type(*this, key, *find(key), expected);
  std::vector<std::string_view> out;
  out.reserve(array.count);
  Cursor in(array.bytes, path());
  for (std::size_t i = 0; i < array.count; ++i) out.push_back(in.string({"metadata", key}));
  return out;
}

std::vector<float> File::floats(std::string_view key) const {
  constexpr std::string_view expected = "array of f32 or f64";
  const Array& array = require_array(*this, key, expected);
  std::vector<float> out;
  out.reserve(array.count);
  switch (array.item) {
    case ValueType::f32:
      append<float>(array, out, [](float x) { return x; });
      break;
    case ValueType::f64:
      append<double>(array, out, [](double x) { return static_cast<float>(x); });
      break;
    default:
      fail_type(*this, key, *find(key), expected);
  }
  return out;
}

std::vector<std::int64_t> File::integers(std::string_view key) const {
  constexpr std::string_view expected = "array of integers";
  const Array& array = require_array(*this, key, expected);
  std::vector<std::int64_t> out;
  out.reserve(array.count);
  const auto widen = [](auto x) { return static_cast<std::int64_t>(x); };
  switch (array.item) {
    case ValueType::boolean:
    case ValueType::u8:
      append<std::uint8_t>(array, out, widen);
      break;
    case ValueType::i8:
      append<std::int8_t>(array, out, widen);
      break;
    case ValueType::u16:
      append<std::uint16_t>(array, out, widen);
      break;
    case ValueType::i16:
      append<std::int16_t>(array, out, widen);
      break;
    case ValueType::u32:
      append<std::uint32_t>(array, out, widen);
      break;
    case ValueType::i32:
      append<std::int32_t>(array, out, widen);
      break;
    case ValueType::i64:
      append<std::int64_t>(array, out, widen);
      break;
    case ValueType::u64:
      append<std::uint64_t>(array, out, [&](std::uint64_t x) {
        if (x > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
          fail_at(ErrorCode::format, path(), {"metadata", key}, "{} does not fit a signed 64-bit integer", x);
        }
        return static_cast<std::int64_t>(x);
      });
      break;
    default:
      fail_type(*this, key, *find(key), expected);
  }
  return out;
}

}  // namespace kvant::gguf
