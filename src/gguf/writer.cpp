#include "gguf/writer.h"

#include <algorithm>

#include "base/checked.h"
#include "base/file_io.h"
#include "gguf/part.h"

namespace kvant::gguf {
namespace {

constexpr std::size_t kAlignment = 32;
constexpr std::uint32_t kVersion = 3;

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& out, std::string_view text) {
  put(out, static_cast<std::uint64_t>(text.size()));
  out += text;
}

/// Appends a value's bytes as its type has them in the file.
struct Encoder {
  std::string& out;
  ValueType type;

  /// The low bytes of a widened integer.
  void operator()(std::uint64_t value) const { out.append(reinterpret_cast<const char*>(&value), value_bytes(type)); }
  void operator()(std::int64_t value) const { (*this)(static_cast<std::uint64_t>(value)); }
  void operator()(double value) const {
    if (type == ValueType::f32) {
      put(out, static_cast<float>(value));
    } else {
      put(out, value);
    }
  }
  void operator()(bool value) const { put(out, static_cast<std::uint8_t>(value)); }
  void operator()(std::string_view text) const { put_text(out, text); }
  void operator()(const Array& array) const {
    put(out, static_cast<std::uint32_t>(array.item));
    put(out, static_cast<std::uint64_t>(array.count));
    out.append(reinterpret_cast<const char*>(array.bytes.data()), array.bytes.size());
  }
};

/// Bytes of a tensor, its shape checked against its type.
std::size_t tensor_bytes(const std::string& name, TensorType type, std::span<const std::size_t> shape) {
  const TypeInfo& of = info(type);
  KVANT_CHECK(!shape.empty() && shape.size() <= 4, ErrorCode::invalid_argument,
              "tensor {}: {} dimensions, expected 1 to 4", printable(name), shape.size());
  KVANT_CHECK(shape[0] % of.block_values == 0, ErrorCode::invalid_argument,
              "tensor {}: row length {} is not a multiple of {}'s block of {}", printable(name), shape[0], of.name,
              of.block_values);
  std::size_t bytes = row_bytes(type, shape[0]);
  for (const std::size_t dim : shape.subspan(1)) bytes = checked_mul(bytes, dim, name);
  KVANT_CHECK(bytes > 0, ErrorCode::invalid_argument, "tensor {}: a dimension is 0", printable(name));
  return bytes;
}

void pad(std::size_t size, const Writer::Sink& sink) {
  static constexpr std::byte kZeros[kAlignment] = {};
  sink(std::span(kZeros).first(round_up(size, kAlignment) - size));
}

}  // namespace

void Writer::set(std::string_view key, const Value& value) {
  KVANT_CHECK(!key.empty(), ErrorCode::invalid_argument, "an empty metadata key");
  KVANT_CHECK(key != "general.alignment", ErrorCode::invalid_argument, "metadata {}: fixed by the writer", key);
  KVANT_CHECK(std::find(keys_.begin(), keys_.end(), key) == keys_.end(), ErrorCode::invalid_argument,
              "metadata {}: set twice", printable(key));
  keys_.emplace_back(key);
  put_text(metadata_, key);
  put(metadata_, static_cast<std::uint32_t>(value.type));
  std::visit(Encoder{metadata_, value.type}, value.data);
}

void Writer::set_texts(std::string_view key, const std::vector<std::string_view>& texts) {
  std::string encoded;
  for (const std::string_view text : texts) put_text(encoded, text);
  set(key, Value{ValueType::array, Array{ValueType::string, texts.size(), std::as_bytes(std::span(encoded))}});
}

void Writer::add(std::string name, TensorType type, std::vector<std::size_t> shape, std::span<const std::byte> data) {
  const std::size_t size = tensor_bytes(name, type, shape);
  KVANT_CHECK(data.size() == size, ErrorCode::invalid_argument, "tensor {}: {} bytes of data, expected {}",
              printable(name), data.size(), size);
  add(std::move(name), type, std::move(shape), [data](const Sink& sink) { sink(data); });
}

void Writer::add(std::string name, TensorType type, std::vector<std::size_t> shape, Producer producer) {
  KVANT_CHECK(!name.empty(), ErrorCode::invalid_argument, "an empty tensor name");
  KVANT_CHECK(std::none_of(tensors_.begin(), tensors_.end(), [&](const Item& item) { return item.name == name; }),
              ErrorCode::invalid_argument, "tensor {}: added twice", printable(name));
  const std::size_t size = tensor_bytes(name, type, shape);
  tensors_.push_back({std::move(name), type, std::move(shape), size, std::move(producer)});
}

void Writer::emit(const Sink& sink) const {
  std::string head = "GGUF";
  put(head, kVersion);
  put(head, static_cast<std::uint64_t>(tensors_.size()));
  put(head, static_cast<std::uint64_t>(keys_.size()));
  head += metadata_;
  std::uint64_t offset = 0;
  for (const Item& item : tensors_) {
    put_text(head, item.name);
    put(head, static_cast<std::uint32_t>(item.shape.size()));
    for (const std::size_t dim : item.shape) put(head, static_cast<std::uint64_t>(dim));
    put(head, static_cast<std::uint32_t>(item.type));
    put(head, offset);
    offset += round_up(item.size, kAlignment);
  }
  sink(std::as_bytes(std::span(head)));
  pad(head.size(), sink);
  for (const Item& item : tensors_) {
    std::size_t given = 0;
    item.producer([&](std::span<const std::byte> bytes) {
      given += bytes.size();
      sink(bytes);
    });
    KVANT_CHECK(given == item.size, ErrorCode::invalid_argument, "tensor {}: {} bytes of data, expected {}",
                printable(item.name), given, item.size);
    pad(given, sink);
  }
}

void Writer::write(const std::filesystem::path& path) const {
  AtomicFile file(path);
  emit([&](std::span<const std::byte> bytes) { file.write(bytes); });
  file.commit();
}

std::vector<std::byte> Writer::bytes() const {
  std::vector<std::byte> out;
  emit([&](std::span<const std::byte> bytes) { out.insert(out.end(), bytes.begin(), bytes.end()); });
  return out;
}

}  // namespace kvant::gguf
