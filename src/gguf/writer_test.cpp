#include "gguf/writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"

namespace kvant::gguf {
namespace {

using testing::HasSubstr;

std::vector<std::byte> iota_bytes(std::size_t size) {
  std::vector<std::byte> out(size);
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<std::byte>(i);
  return out;
}

// The file's bytes worked out by hand from docs/gguf.md.
TEST(Writer, LayoutIsTheSpecifications) {
  const std::vector<std::byte> data = iota_bytes(4);
  Writer writer;
  writer.set("k", std::uint16_t{0x1234});
  writer.set("s", std::vector<std::string>{"ab"});
  writer.add("t", TensorType::f32, {1}, data);
  using namespace std::string_literals;
  std::string expected =
      "GGUF\x03\0\0\0"s                         // version
      "\x01\0\0\0\0\0\0\0"s                     // tensors
      "\x02\0\0\0\0\0\0\0"s                     // entries
      "\x01\0\0\0\0\0\0\0k\x02\0\0\0\x34\x12"s  // u16
      "\x01\0\0\0\0\0\0\0s\x09\0\0\0"s          // array
      "\x08\0\0\0\x01\0\0\0\0\0\0\0"s           // of one string
      "\x02\0\0\0\0\0\0\0ab"s
      "\x01\0\0\0\0\0\0\0t\x01\0\0\0"s  // tensor of one dimension
      "\x01\0\0\0\0\0\0\0\0\0\0\0"s     // 1; f32
      "\0\0\0\0\0\0\0\0"s;              // offset
  expected.resize((expected.size() + 31) / 32 * 32);
  expected += "\0\x01\x02\x03"s;
  expected.resize(expected.size() + 28);
  const auto bytes = writer.bytes();
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), expected);
}

TEST(Writer, TensorsAreAlignedAndStreamed) {
  const std::vector<std::byte> data = iota_bytes(68);
  Writer writer;
  writer.add("a", TensorType::q8_0, {32, 2}, [&](const Writer::Sink& sink) {
    sink(std::span(data).first(1));
    sink({});
    sink(std::span(data).subspan(1));
  });
  writer.add("b", TensorType::i8, {3}, std::span(data).first(3));
  const std::string path = testing::TempDir() + "kvant_writer_test.gguf";
  writer.write(path);
  {
    const File file = File::open(path);
    for (const Tensor& tensor : file.tensors()) {
      EXPECT_EQ(static_cast<std::size_t>(tensor.data.data() - file.tensors()[0].data.data()) % 32, 0u);
      EXPECT_TRUE(std::equal(tensor.data.begin(), tensor.data.end(), data.begin())) << tensor.name;
    }
    EXPECT_EQ(file.tensor("a").data.size(), 68u);
    EXPECT_EQ(file.size_bytes() % 32, 0u);
  }
  std::filesystem::remove(path);
}

TEST(Writer, CopiesMetadataOfAnotherFile) {
  Writer first;
  first.set("i", std::int8_t{-5});
  first.set("f", 0.1f);
  first.set("b", false);
  first.set("s", "text");
  first.set("a", std::vector<std::int16_t>{1, -2});
  first.set("t", std::vector<std::string_view>{"x", ""});
  const auto bytes = first.bytes();
  const File file = File::parse(bytes, "f");
  Writer second;
  for (const File::Entry& entry : file.metadata()) second.set(entry.key, entry.value);
  EXPECT_EQ(second.bytes(), bytes);
}

TEST(Writer, RefusesMisuse) {
  const std::vector<std::byte> data = iota_bytes(34);
  Writer writer;
  writer.set("k", 1.0f);
  writer.add("t", TensorType::q8_0, {32}, data);
  const auto message = [](auto action) -> std::string {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      return error.what();
    }
    ADD_FAILURE() << "nothing thrown";
    return {};
  };
  EXPECT_EQ(message([&] { writer.set("k", 1u); }), "metadata k: set twice");
  EXPECT_EQ(message([&] { writer.set("", 1u); }), "an empty metadata key");
  EXPECT_EQ(message([&] { writer.set("general.alignment", 64u); }), "metadata general.alignment: fixed by the writer");
  EXPECT_EQ(message([&] { writer.add("t", TensorType::q8_0, {32}, data); }), "tensor t: added twice");
  EXPECT_EQ(message([&] { writer.add("u", TensorType::q8_0, {64}, data); }), "tensor u: 34 bytes of data, expected 68");
  EXPECT_THAT(message([&] { writer.add("u", TensorType::q8_0, {33}, data); }), HasSubstr("not a multiple of Q8_0's"));
  EXPECT_THAT(message([&] { writer.add("u", TensorType::i8, {}, data); }), HasSubstr("0 dimensions"));
  EXPECT_THAT(message([&] { writer.add("u", TensorType::i8, {34, 0}, data); }), HasSubstr("a dimension is 0"));
  EXPECT_EQ(message([&] { writer.add("", TensorType::i8, {34}, data); }), "an empty tensor name");
  writer.add("short", TensorType::i8, {35}, [&](const Writer::Sink& sink) { sink(data); });
  const std::string path = testing::TempDir() + "kvant_writer_test_short.gguf";
  EXPECT_EQ(message([&] { writer.write(path); }), "tensor short: 34 bytes of data, expected 35");
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace kvant::gguf
