#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "gguf/blocks.h"
#include "gguf/reader.h"
#include "gguf/writer.h"

// Files that lie: each must be refused with a message that names file and place, and none may crash the reader.
namespace kvant::gguf {
namespace {

using testing::HasSubstr;

/// Bytes of a file, put together field by field.
class Raw {
 public:
  template <class T>
  Raw& put(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Raw& u32(std::uint32_t value) { return put(value); }
  Raw& u64(std::uint64_t value) { return put(value); }
  Raw& raw(std::string_view bytes) {
    bytes_ += bytes;
    return *this;
  }
  Raw& text(std::string_view text) { return u64(text.size()).raw(text); }
  /// Magic, version 3, counts.
  Raw& header(std::uint64_t tensors, std::uint64_t entries) { return raw("GGUF").u32(3).u64(tensors).u64(entries); }
  Raw& key(std::string_view name, ValueType type) { return text(name).u32(static_cast<std::uint32_t>(type)); }
  /// One tensor's description.
  Raw& tensor(std::string_view name, std::initializer_list<std::uint64_t> dims, std::uint32_t type,
              std::uint64_t offset) {
    text(name).u32(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t dim : dims) u64(dim);
    return u32(type).u64(offset);
  }
  Raw& pad(std::size_t step = 32) {
    bytes_.resize((bytes_.size() + step - 1) / step * step);
    return *this;
  }
  std::span<const std::byte> bytes() const { return std::as_bytes(std::span(bytes_)); }
  std::size_t size() const { return bytes_.size(); }

 private:
  std::string bytes_;
};

/// Expects that the bytes are refused with `code` and a message of the form "f.gguf: ..." with `part` in it.
void expect_refused(const Raw& raw, ErrorCode code, const std::string& part) {
  try {
    File::parse(raw.bytes(), "f.gguf");
    ADD_FAILURE() << "accepted, expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_TRUE(std::string_view(error.what()).starts_with("f.gguf: ")) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

constexpr auto kFormat = ErrorCode::format;
constexpr auto kUnsupported = ErrorCode::unsupported;
constexpr std::uint64_t kHuge = std::uint64_t{1} << 62;

TEST(Malformed, Header) {
  expect_refused(Raw(), kFormat, "not a GGUF file");
  expect_refused(Raw().raw("GGU"), kFormat, "not a GGUF file: starts with 'GGU'");
  expect_refused(Raw().raw("PK\x03\x04-------"), kFormat, "starts with 'PK\\x03\\x04'");
  expect_refused(Raw().raw("GGUF"), kFormat, "header: 4 bytes at offset 4, but the file ends after 0");
  expect_refused(Raw().raw("GGUF").u32(0), kUnsupported, "version 0");
  expect_refused(Raw().raw("GGUF").u32(1), kUnsupported, "GGUF version 1 is not supported (2 and 3 are)");
  expect_refused(Raw().raw("GGUF").u32(4), kUnsupported, "version 4");
  expect_refused(Raw().raw("GGUF").u32(0x03000000), kUnsupported, "big-endian");
}

TEST(Malformed, CountsThatCannotBeTrue) {
  for (const std::uint64_t count : {std::uint64_t{1}, std::uint64_t{1000}, kHuge, ~std::uint64_t{0}}) {
    expect_refused(Raw().header(count, 0), kFormat, "tensor count");
    expect_refused(Raw().header(0, count), kFormat, "metadata count");
    expect_refused(Raw().header(0, 1).key("a", ValueType::string).u64(count), kFormat, "metadata a: ");
    for (const ValueType item : {ValueType::u8, ValueType::f64, ValueType::string, ValueType::boolean}) {
      expect_refused(Raw().header(0, 1).key("a", ValueType::array).u32(static_cast<std::uint32_t>(item)).u64(count),
                     kFormat, "metadata a: count " + std::to_string(count));
    }
  }
  expect_refused(Raw().header(0, 1).u64(kHuge).raw("some more bytes than one entry needs"), kFormat, "metadata: ");
}

TEST(Malformed, Metadata) {
  expect_refused(Raw().header(0, 1).key("a", ValueType{13}).u64(0), kFormat, "metadata a: unknown value type 13");
  expect_refused(Raw().header(0, 1).key("a", ValueType::array).u32(99).u64(0), kFormat, "unknown value type 99");
  expect_refused(Raw().header(0, 1).key("a", ValueType::array).u32(9).u64(1).u32(0).u64(0), kUnsupported,
                 "metadata a: arrays of arrays are not supported");
  expect_refused(Raw().header(0, 1).key("a", ValueType::boolean).put(std::uint8_t{2}), kFormat,
                 "metadata a: boolean is 2, expected 0 or 1");
  expect_refused(Raw().header(0, 1).key("a", ValueType::array).u32(7).u64(2).raw("\x01\x03"), kFormat, "boolean is 3");
  expect_refused(Raw().header(0, 1).key("", ValueType::u32).u32(0), kFormat, "key 0 is empty");
  expect_refused(Raw().header(0, 2).key("a", ValueType::u32).u32(0).key("a", ValueType::u8).raw("xxxxxxx"), kFormat,
                 "metadata a: the key is there twice");
  expect_refused(Raw().header(0, 1).key("a\n\xff", ValueType{77}).u64(0), kFormat, "metadata a\\x0a\\xff: ");
  expect_refused(Raw().header(0, 1).key(std::string(1000, 'k'), ValueType{77}).u64(0), kFormat,
                 "metadata " + std::string(80, 'k') + "...: ");
  // The second string of two ends beyond the file.
  expect_refused(Raw().header(0, 1).key("a", ValueType::array).u32(8).u64(2).text("x").u64(9).raw("12345678"), kFormat,
                 "metadata a: 9 bytes at offset");
}

TEST(Malformed, Alignment) {
  const auto with = [](std::uint32_t alignment) {
    return Raw().header(1, 1).key("general.alignment", ValueType::u32).u32(alignment).tensor("t", {8}, 0, 0);
  };
  for (const std::uint32_t bad : {0u, 3u, 48u, 0xffffffffu}) {
    expect_refused(with(bad).pad().put(kHuge), kFormat,
                   "general.alignment: " + std::to_string(bad) + " is not a power of two");
  }
  expect_refused(with(0x80000000u).pad(), kFormat, "tensor t: 32 bytes at offset 0");
  expect_refused(Raw().header(0, 1).key("general.alignment", ValueType::u64).u64(32), kFormat,
                 "type u64, expected u32");
  const Raw good = with(1).raw(std::string(32, 'x'));  // unpadded
  EXPECT_EQ(File::parse(good.bytes(), "f").tensor("t").data.size(), 32u);
}

TEST(Malformed, TensorShapes) {
  const auto refuse = [](std::initializer_list<std::uint64_t> dims, std::uint32_t type, ErrorCode code,
                         const std::string& part) {
    expect_refused(Raw().header(1, 0).tensor("t", dims, type, 0).raw(std::string(200, 'x')), code, "tensor t: " + part);
  };
  refuse({}, 0, kFormat, "0 dimensions, expected 1 to 4");
  refuse({1, 1, 1, 1, 1}, 0, kFormat, "5 dimensions");
  refuse({0}, 0, kFormat, "dimension 0 is 0");
  refuse({4, 0}, 0, kFormat, "dimension 1 is 0");
  refuse({kHuge, 4}, 0, kFormat, "shape [4611686018427387904,4] overflows");
  refuse({kHuge, 2}, 0, kFormat, "shape [4611686018427387904,2] overflows");  // values fit, bytes do not
  refuse({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, kFormat, "shape [4294967296,4294967296] overflows");
  refuse({33}, 8, kFormat, "row length 33 is not a multiple of Q8_0's block of 32");
  refuse({128, 2}, 14, kFormat, "row length 128 is not a multiple of Q6_K's block of 256");
  refuse({32}, 4, kUnsupported, "type id 4 is not supported");
  refuse({32}, 16, kUnsupported, "type id 16 is not supported");
  refuse({32}, 0xffffffff, kUnsupported, "type id 4294967295 is not supported");
  refuse({1000}, 0, kFormat, "4000 bytes at offset 0, but the file has");
}

TEST(Malformed, TensorPlaces) {
  const auto with = [](std::uint64_t offset) { return Raw().header(1, 0).tensor("t", {8}, 0, offset).pad(); };
  EXPECT_NO_THROW(File::parse(with(32).raw(std::string(64, 'x')).bytes(), "f"));
  expect_refused(with(32).raw(std::string(63, 'x')), kFormat, "32 bytes at offset 32, but the file has 63");
  expect_refused(with(16).raw(std::string(64, 'x')), kFormat, "offset 16 is not a multiple of the alignment 32");
  expect_refused(with(~std::uint64_t{31}).raw(std::string(64, 'x')), kFormat, "offset 18446744073709551584");
  expect_refused(Raw().header(1, 0).tensor("t", {8}, 0, 0), kFormat, "the file has 0 bytes of tensor data");
  expect_refused(Raw().header(2, 0).tensor("t", {8}, 0, 0).tensor("t", {8}, 0, 0).pad().raw(std::string(32, 'x')),
                 kFormat, "tensor t: the name is there twice");
  expect_refused(Raw().header(1, 0).tensor("", {8}, 0, 0).pad().raw(std::string(32, 'x')), kFormat, "name is empty");
}

/// A small file with metadata of several kinds and two tensors.
std::vector<std::byte> small_file() {
  static const std::vector<float> floats(32, 1.0f);
  static const std::vector<std::uint8_t> blocks(sizeof(BlockQ8_0), 3);
  Writer writer;
  writer.set("general.architecture", "qwen2");
  writer.set("count", 7u);
  writer.set("flag", true);
  writer.set("tokens", std::vector<std::string>{"a", "bc", ""});
  writer.set("scores", std::vector<float>{0.5f, -1.0f});
  writer.add("f", TensorType::f32, {16, 2}, std::as_bytes(std::span(floats)));
  writer.add("q", TensorType::q8_0, {32}, std::as_bytes(std::span(blocks)));
  return writer.bytes();
}

/// Touches everything that a parsed file offers.
void walk(const File& file) {
  std::size_t total = 0;
  for (const File::Entry& entry : file.metadata()) {
    if (const auto* array = std::get_if<Array>(&entry.value.data)) {
      if (array->item == ValueType::string) {
        for (const std::string_view text : file.texts(entry.key)) total += printable(text).size();
      } else if (array->item == ValueType::f32 || array->item == ValueType::f64) {
        total += file.floats(entry.key).size();
      }
    }
  }
  for (const Tensor& tensor : file.tensors()) {
    ASSERT_EQ(tensor.data.size(), tensor.rows() * row_bytes(tensor.type, tensor.cols()));
    if (is_weight_type(tensor.type)) {
      std::vector<float> row(tensor.cols());
      dequantize(tensor.type, tensor.data.data(), row);
    }
  }
}

TEST(Damaged, EveryTruncationIsRefused) {
  const std::vector<std::byte> whole = small_file();
  ASSERT_NO_THROW(walk(File::parse(whole, "f.gguf")));
  const std::size_t padding = 32 - sizeof(BlockQ8_0) % 32;  // of the last tensor, which nothing needs
  for (std::size_t size = 0; size + padding < whole.size(); ++size) {
    const std::vector<std::byte> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    try {
      File::parse(cut, "f.gguf");
      ADD_FAILURE() << "accepted " << size << " of " << whole.size() << " bytes";
    } catch (const Error& error) {
      EXPECT_TRUE(std::string_view(error.what()).starts_with("f.gguf: ")) << error.what();
    }
  }
}

TEST(Damaged, NoFlippedBitCrashes) {
  std::vector<std::byte> bytes = small_file();
  std::size_t refused = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      bytes[i] ^= static_cast<std::byte>(1 << bit);
      try {
        walk(File::parse(bytes, "f.gguf"));
      } catch (const Error&) {
        ++refused;
      }
      bytes[i] ^= static_cast<std::byte>(1 << bit);
    }
  }
  EXPECT_GT(refused, bytes.size());  // most of the head is checked
}

}  // namespace
}  // namespace kvant::gguf
