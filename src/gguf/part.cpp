#include "gguf/part.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/checked.h"
#include "gguf/cursor.h"

// File layout: https://github.com/ggml-org/ggml, docs/gguf.md. Versions 2 and 3 differ in nothing that matters on a
// little-endian machine.
namespace kvant::gguf {
namespace {

struct ValueTypeInfo {
  std::string_view name;
  std::size_t bytes;
};
/// Indexed by ValueType.
constexpr ValueTypeInfo kValueTypes[] = {{"u8", 1},  {"i8", 1},  {"u16", 2},     {"i16", 2},    {"u32", 4},
                                         {"i32", 4}, {"f32", 4}, {"boolean", 1}, {"string", 0}, {"array", 0},
                                         {"u64", 8}, {"i64", 8}, {"f64", 8}};

// Least bytes of one item, to refuse counts that cannot be true.
constexpr std::size_t kStringBytes = 8;                  // an empty string
constexpr std::size_t kEntryBytes = 8 + 4 + 1;           // key, type, one-byte value
constexpr std::size_t kTensorBytes = 8 + 4 + 8 + 4 + 8;  // name, dimension count, one dimension, type, offset

constexpr std::size_t kDefaultAlignment = 32;
constexpr std::uint32_t kMaxDims = 4;

ValueType read_value_type(Cursor& in, const Place& place) {
  const auto id = in.read<std::uint32_t>(place);
  if (id >= std::size(kValueTypes)) fail_at(ErrorCode::format, in.file(), place, "unknown value type {}", id);
  return static_cast<ValueType>(id);
}

bool read_boolean(Cursor& in, const Place& place) {
  const auto byte = in.read<std::uint8_t>(place);
  if (byte > 1) fail_at(ErrorCode::format, in.file(), place, "boolean is {}, expected 0 or 1", byte);
  return byte == 1;
}

Array read_array(Cursor& in, std::span<const std::byte> all, const Place& place) {
  Array array{};
  array.item = read_value_type(in, place);
  if (array.item == ValueType::array) {
    fail_at(ErrorCode::unsupported, in.file(), place, "arrays of arrays are not supported");
  }
  const std::size_t each = value_bytes(array.item);
  array.count = in.count(each != 0 ? each : kStringBytes, place);
  const std::size_t begin = in.offset();
  if (array.item == ValueType::string) {
    for (std::size_t i = 0; i < array.count; ++i) in.string(place);
  } else if (array.item == ValueType::boolean) {
    for (std::size_t i = 0; i < array.count; ++i) read_boolean(in, place);
  } else {
    in.take(array.count * each, place);
  }
  array.bytes = all.subspan(begin, in.offset() - begin);
  return array;
}

Value read_value(Cursor& in, std::span<const std::byte> all, const Place& place) {
  const ValueType type = read_value_type(in, place);
  const auto integer = [&](auto value) -> Value {
    using Wide = std::conditional_t<std::is_signed_v<decltype(value)>, std::int64_t, std::uint64_t>;
    return {type, static_cast<Wide>(value)};
  };
  switch (type) {
    case ValueType::u8:
      return integer(in.read<std::uint8_t>(place));
    case ValueType::i8:
      return integer(in.read<std::int8_t>(place));
    case ValueType::u16:
      return integer(in.read<std::uint16_t>(place));
    case ValueType::i16:
      return integer(in.read<std::int16_t>(place));
    case ValueType::u32:
      return integer(in.read<std::uint32_t>(place));
    case ValueType::i32:
      return integer(in.read<std::int32_t>(place));
    case ValueType::u64:
      return integer(in.read<std::uint64_t>(place));
    case ValueType::i64:
      return integer(in.read<std::int64_t>(place));
    case ValueType::f32:
      return {type, static_cast<double>(in.read<float>(place))};
    case ValueType::f64:
      return {type, in.read<double>(place)};
    case ValueType::boolean:
      return {type, read_boolean(in, place)};
    case ValueType::string:
      return {type, in.string(place)};
    case ValueType::array:
      return {type, read_array(in, all, place)};
  }
  fail_at(ErrorCode::format, in.file(), place, "unknown value type");
}

/// Throws for everything that is not a GGUF file of version 2 or 3; leaves the cursor behind the version.
std::uint32_t read_version(Cursor& in, std::span<const std::byte> all) {
  const std::string& file = in.file();
  const std::string_view start(reinterpret_cast<const char*>(all.data()), std::min<std::size_t>(all.size(), 64));
  KVANT_CHECK(!start.starts_with("version https://git-lfs"), ErrorCode::format,
              "{}: a git-lfs pointer, not the file itself; fetch the file with 'git lfs pull'", file);
  KVANT_CHECK(start.starts_with("GGUF"), ErrorCode::format, "{}: not a GGUF file: starts with '{}', expected 'GGUF'",
              file, printable(start.substr(0, 4)));
  const Place header{"header", {}};
  in.take(4, header);
  const auto version = in.read<std::uint32_t>(header);
  KVANT_CHECK((version & 0xffffu) != 0 || version == 0, ErrorCode::unsupported,
              "{}: a big-endian GGUF file is not supported (little-endian ones are)", file);
  KVANT_CHECK(version == 2 || version == 3, ErrorCode::unsupported,
              "{}: GGUF version {} is not supported (2 and 3 are)", file, version);
  return version;
}

void read_metadata(Cursor& in, std::span<const std::byte> all, std::size_t count, Part& part) {
  for (std::size_t i = 0; i < count; ++i) {
    const std::string_view key = in.string({"metadata", {}});
    const Place place{"metadata", key};
    KVANT_CHECK(!key.empty(), ErrorCode::format, "{}: metadata: key {} is empty", in.file(), i);
    part.metadata.push_back({key, read_value(in, all, place)});
    part.keys.add(key, i);
  }
  if (const auto* twice = part.keys.finish()) {
    fail_at(ErrorCode::format, in.file(), {"metadata", *twice}, "the key is there twice");
  }
}

std::size_t alignment(const Part& part, const std::string& file) {
  constexpr std::string_view key = "general.alignment";
  const Value* value = part.find(key);
  if (value == nullptr) return kDefaultAlignment;
  if (value->type != ValueType::u32) {
    fail_at(ErrorCode::format, file, {"metadata", key}, "type {}, expected u32", name(value->type));
  }
  const auto bytes = std::get<std::uint64_t>(value->data);
  if (!std::has_single_bit(bytes)) {
    fail_at(ErrorCode::format, file, {"metadata", key}, "{} is not a power of two", bytes);
  }
  return static_cast<std::size_t>(bytes);
}

struct TensorRange {
  std::uint64_t offset;
  std::size_t bytes;
};

/// Name, shape, type and place of a tensor; its data cannot be taken before all tensors are read.
TensorRange read_tensor(Cursor& in, Tensor& tensor) {
  tensor.name = in.string({"tensor", {}});
  const Place place{"tensor", tensor.name};
  KVANT_CHECK(!tensor.name.empty(), ErrorCode::format, "{}: a tensor's name is empty", in.file());
  const auto dims = in.read<std::uint32_t>(place);
  if (dims < 1 || dims > kMaxDims) {
    fail_at(ErrorCode::format, in.file(), place, "{} dimensions, expected 1 to {}", dims, kMaxDims);
  }
  std::size_t values = 1;
  for (std::uint32_t i = 0; i < dims; ++i) {
    tensor.shape.push_back(static_cast<std::size_t>(in.read<std::uint64_t>(place)));
    if (tensor.shape.back() == 0) fail_at(ErrorCode::format, in.file(), place, "dimension {} is 0", i);
    if (__builtin_mul_overflow(values, tensor.shape.back(), &values)) {
      fail_at(ErrorCode::format, in.file(), place, "shape {} overflows", tensor.shape_text());
    }
  }
  const auto id = in.read<std::uint32_t>(place);
  const TypeInfo* type = find_type(id);
  if (type == nullptr) fail_at(ErrorCode::unsupported, in.file(), place, "type id {} is not supported", id);
  tensor.type = type->type;
  if (tensor.cols() % type->block_values != 0) {
    fail_at(ErrorCode::format, in.file(), place, "row length {} is not a multiple of {}'s block of {}", tensor.cols(),
            type->name, type->block_values);
  }
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(values / type->block_values, type->block_bytes, &bytes)) {
    fail_at(ErrorCode::format, in.file(), place, "shape {} overflows", tensor.shape_text());
  }
  return {in.read<std::uint64_t>(place), bytes};
}

void read_tensors(Cursor& in, std::span<const std::byte> all, std::size_t count, Part& part) {
  std::vector<TensorRange> ranges;
  for (std::size_t i = 0; i < count; ++i) ranges.push_back(read_tensor(in, part.tensors.emplace_back()));
  const std::size_t step = alignment(part, in.file());
  const std::size_t begin = round_up(in.offset(), step);  // no overflow: a file's size and a 32-bit step
  const std::span<const std::byte> data = all.subspan(std::min(begin, all.size()));
  for (std::size_t i = 0; i < count; ++i) {
    Tensor& tensor = part.tensors[i];
    const auto [offset, bytes] = ranges[i];
    const Place place{"tensor", tensor.name};
    if (offset % step != 0) {
      fail_at(ErrorCode::format, in.file(), place, "offset {} is not a multiple of the alignment {}", offset, step);
    }
    if (offset > data.size() || bytes > data.size() - offset) {
      fail_at(ErrorCode::format, in.file(), place, "{} bytes at offset {}, but the file has {} bytes of tensor data",
              bytes, offset, data.size());
    }
    tensor.data = data.subspan(static_cast<std::size_t>(offset), bytes);
  }
}

}  // namespace

std::size_t value_bytes(ValueType type) noexcept { return kValueTypes[static_cast<std::size_t>(type)].bytes; }

std::string_view name(ValueType type) noexcept { return kValueTypes[static_cast<std::size_t>(type)].name; }

const std::string_view* NameIndex::finish() {
  std::sort(items_.begin(), items_.end());
  const auto twice =
      std::adjacent_find(items_.begin(), items_.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  return twice == items_.end() ? nullptr : &twice->first;
}

const std::size_t* NameIndex::find(std::string_view name) const noexcept {
  const auto at = std::lower_bound(items_.begin(), items_.end(), name,
                                   [](const auto& item, std::string_view wanted) { return item.first < wanted; });
  return at == items_.end() || at->first != name ? nullptr : &at->second;
}

const Value* Part::find(std::string_view key) const noexcept {
  const std::size_t* at = keys.find(key);
  return at == nullptr ? nullptr : &metadata[*at].value;
}

Part parse_part(std::span<const std::byte> bytes, const std::string& file) {
  Cursor in(bytes, file);
  Part part;
  part.version = read_version(in, bytes);
  const std::size_t tensors = in.count(kTensorBytes, {"tensor count", {}});
  const std::size_t entries = in.count(kEntryBytes, {"metadata count", {}});
  read_metadata(in, bytes, entries, part);
  read_tensors(in, bytes, tensors, part);
  return part;
}

}  // namespace kvant::gguf
