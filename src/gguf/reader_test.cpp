#include "gguf/reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file_io.h"
#include "gguf/writer.h"

namespace kvant::gguf {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
namespace fs = std::filesystem;

/// A file of the test data, or an empty path when it is not there.
fs::path data_file(const std::string& name) {
  const char* folder = std::getenv("KVANT_DATA");
  const fs::path path = (folder != nullptr ? fs::path(folder) : fs::path(KVANT_SOURCE_DIR) / "../shared/data") / name;
  return fs::exists(path) ? path : fs::path();
}

#define KVANT_NEED_DATA(variable, name)      \
  const fs::path variable = data_file(name); \
  if (variable.empty()) GTEST_SKIP() << "no " << (name)

/// The message of the error that `action` throws; its code must be `code`.
template <class Action>
std::string error_of(ErrorCode code, Action action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing thrown";
  return {};
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

/// A new folder that is removed with its files at the end of the test.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = testing::TempDir() + "kvant_gguf_XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }

 private:
  fs::path path_;
};

/// A file with every kind of value; `bytes` outlives it.
File every_kind(std::vector<std::byte>& bytes) {
  Writer writer;
  writer.set("u8", std::uint8_t{255});
  writer.set("i8", std::int8_t{-128});
  writer.set("u16", std::uint16_t{65535});
  writer.set("i16", std::int16_t{-32768});
  writer.set("u32", 0xffffffffu);
  writer.set("i32", std::int32_t{-7});
  writer.set("u64", ~std::uint64_t{0});
  writer.set("i64", std::int64_t{-1} << 40);
  writer.set("f32", 0.1f);
  writer.set("f64", 0.1);
  writer.set("true", true);
  writer.set("text", "a\tb");
  writer.set("floats", std::vector<float>{1.5f, -2.0f});
  writer.set("doubles", std::vector<double>{0.25});
  writer.set("texts", std::vector<std::string>{"one", "", "three"});
  writer.set("u8s", std::vector<std::uint8_t>{200});
  writer.set("i8s", std::vector<std::int8_t>{-3});
  writer.set("u16s", std::vector<std::uint16_t>{65535});
  writer.set("i16s", std::vector<std::int16_t>{-2});
  writer.set("u32s", std::vector<std::uint32_t>{0xffffffff});
  writer.set("i32s", std::vector<std::int32_t>{-1, 2});
  writer.set("u64s", std::vector<std::uint64_t>{7});
  writer.set("i64s", std::vector<std::int64_t>{-9});
  writer.set("too large", std::vector<std::uint64_t>{std::uint64_t{1} << 63});
  writer.set("bools", std::vector<std::uint8_t>{});
  const bool flags[] = {true, false};
  writer.set("flags", std::span<const bool>(flags));
  bytes = writer.bytes();
  return File::parse(bytes, "every.gguf");
}

TEST(Metadata, ReadsEveryKindOfValue) {
  std::vector<std::byte> bytes;
  const File file = every_kind(bytes);
  EXPECT_EQ(file.path(), "every.gguf");
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.size_bytes(), bytes.size());
  EXPECT_EQ(file.metadata().size(), 26u);
  EXPECT_EQ(file.metadata()[1].key, "i8");
  EXPECT_EQ(file.metadata()[1].value.type, ValueType::i8);
  EXPECT_EQ(std::get<std::int64_t>(file.metadata()[1].value.data), -128);
  EXPECT_EQ(file.integer("u8"), 255u);
  EXPECT_EQ(file.integer("u16"), 65535u);
  EXPECT_EQ(file.integer("u32"), 0xffffffffu);
  EXPECT_EQ(file.integer("u64"), ~std::uint64_t{0});
  EXPECT_EQ(file.number("i16"), -32768.0);
  EXPECT_EQ(file.number("i32"), -7.0);
  EXPECT_EQ(file.number("i64"), -0x1p40);
  EXPECT_EQ(file.number("f32"), static_cast<double>(0.1f));
  EXPECT_EQ(file.number("f64"), 0.1);
  EXPECT_EQ(file.number("u8"), 255.0);
  EXPECT_TRUE(file.boolean("true", false));
  EXPECT_EQ(file.text("text"), "a\tb");
  EXPECT_THAT(file.floats("floats"), ElementsAre(1.5f, -2.0f));
  EXPECT_THAT(file.floats("doubles"), ElementsAre(0.25f));
  EXPECT_THAT(file.texts("texts"), ElementsAre("one", "", "three"));
  EXPECT_THAT(file.integers("u8s"), ElementsAre(200));
  EXPECT_THAT(file.integers("i8s"), ElementsAre(-3));
  EXPECT_THAT(file.integers("u16s"), ElementsAre(65535));
  EXPECT_THAT(file.integers("i16s"), ElementsAre(-2));
  EXPECT_THAT(file.integers("u32s"), ElementsAre(0xffffffffll));
  EXPECT_THAT(file.integers("i32s"), ElementsAre(-1, 2));
  EXPECT_THAT(file.integers("u64s"), ElementsAre(7));
  EXPECT_THAT(file.integers("i64s"), ElementsAre(-9));
  EXPECT_THAT(file.integers("flags"), ElementsAre(1, 0));
  EXPECT_THAT(file.integers("bools"), ElementsAre());
}

TEST(Metadata, FallbacksAreForAbsentKeysOnly) {
  std::vector<std::byte> bytes;
  const File file = every_kind(bytes);
  EXPECT_EQ(file.integer("absent", 5), 5u);
  EXPECT_EQ(file.integer("u8", 5), 255u);
  EXPECT_EQ(file.number("absent", 0.5), 0.5);
  EXPECT_EQ(file.number("f64", 0.5), 0.1);
  EXPECT_TRUE(file.boolean("absent", true));
  EXPECT_EQ(file.text("absent", "none"), "none");
  EXPECT_EQ(file.find("absent"), nullptr);
  const auto message = [&](auto action) { return error_of(ErrorCode::format, action); };
  EXPECT_EQ(message([&] { file.integer("text", 5); }), "every.gguf: metadata text: type string, expected an integer");
  EXPECT_EQ(message([&] { file.number("true", 5); }), "every.gguf: metadata true: type boolean, expected a number");
  EXPECT_EQ(message([&] { file.boolean("u8", false); }), "every.gguf: metadata u8: type u8, expected boolean");
  EXPECT_EQ(message([&] { file.text("f32", ""); }), "every.gguf: metadata f32: type f32, expected string");
}

TEST(Metadata, ErrorsNameFileKeyAndBothTypes) {
  std::vector<std::byte> bytes;
  const File file = every_kind(bytes);
  const auto message = [&](auto action) { return error_of(ErrorCode::format, action); };
  EXPECT_EQ(message([&] { file.integer("absent"); }), "every.gguf: metadata absent: missing, expected an integer");
  EXPECT_EQ(message([&] { file.integer("f32"); }), "every.gguf: metadata f32: type f32, expected an integer");
  EXPECT_EQ(message([&] { file.integer("i8"); }), "every.gguf: metadata i8: -128, expected 0 or more");
  EXPECT_EQ(message([&] { file.text("texts"); }), "every.gguf: metadata texts: type array of string, expected string");
  EXPECT_EQ(message([&] { file.texts("text"); }), "every.gguf: metadata text: type string, expected array of string");
  EXPECT_EQ(message([&] { file.texts("i32s"); }),
            "every.gguf: metadata i32s: type array of i32, expected array of string");
  EXPECT_EQ(message([&] { file.floats("i32s"); }),
            "every.gguf: metadata i32s: type array of i32, expected array of f32 or f64");
  EXPECT_EQ(message([&] { file.integers("floats"); }),
            "every.gguf: metadata floats: type array of f32, expected array of integers");
  EXPECT_THAT(message([&] { file.integers("too large"); }), HasSubstr("9223372036854775808 does not fit"));
}

TEST(Tensors, AreFoundByName) {
  const std::vector<float> a{1, 2, 3, 4, 5, 6};
  const std::vector<std::uint8_t> q(2 * sizeof(BlockQ8_0), 9);
  Writer writer;
  writer.add("a", TensorType::f32, {3, 2}, bytes_of(a));
  writer.add("q", TensorType::q8_0, {32, 1, 2}, bytes_of(q));
  const auto bytes = writer.bytes();
  const File file = File::parse(bytes, "f.gguf");
  ASSERT_EQ(file.tensors().size(), 2u);
  const Tensor& first = file.tensor("a");
  EXPECT_EQ(first.shape_text(), "[3,2]");
  EXPECT_EQ(first.cols(), 3u);
  EXPECT_EQ(first.rows(), 2u);
  EXPECT_EQ(first.values(), 6u);
  EXPECT_EQ(std::memcmp(first.data.data(), a.data(), first.data.size()), 0);
  EXPECT_EQ(first.data.size(), 24u);
  const Tensor* second = file.find_tensor("q");
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(second->type, TensorType::q8_0);
  EXPECT_EQ(second->rows(), 2u);
  EXPECT_EQ(second->data.size(), 68u);
  EXPECT_EQ(file.find_tensor("b"), nullptr);
  EXPECT_EQ(error_of(ErrorCode::format, [&] { file.tensor("b\n"); }), "f.gguf: tensor b\\x0a: not in the file");
}

TEST(Open, ReadsRealFilesOfBothVersions) {
  KVANT_NEED_DATA(falcon, "gguf/ggml-vocab-falcon.v2.gguf");
  KVANT_NEED_DATA(qwen, "vocab/ggml-vocab-qwen2.gguf");
  KVANT_NEED_DATA(stories, "gguf/stories260K.qwen2-f32.gguf");
  const File v2 = File::open(falcon);
  EXPECT_EQ(v2.version(), 2u);
  EXPECT_EQ(v2.texts("tokenizer.ggml.tokens").size(), 65024u);
  const File v3 = File::open(qwen);
  EXPECT_EQ(v3.version(), 3u);
  EXPECT_EQ(v3.text("general.architecture"), "qwen2");
  EXPECT_EQ(v3.texts("tokenizer.ggml.tokens").size(), 151936u);
  EXPECT_EQ(v3.integers("tokenizer.ggml.token_type").size(), 151936u);
  const File model = File::open(stories);
  EXPECT_EQ(model.integer("qwen2.block_count"), 5u);
  EXPECT_EQ(model.tensor("token_embd.weight").shape_text(), "[64,512]");
  EXPECT_EQ(model.size_bytes(), fs::file_size(stories));
}

TEST(Open, RefusesVersion1) {
  KVANT_NEED_DATA(path, "gguf/ggml-vocab-llama.v1.gguf");
  EXPECT_EQ(error_of(ErrorCode::unsupported, [&] { File::open(path); }),
            path.string() + ": GGUF version 1 is not supported (2 and 3 are)");
}

TEST(Open, ExplainsAGitLfsPointer) {
  KVANT_NEED_DATA(path, "gguf/NOT-A-GGUF.lfs-pointer.ggml-vocab-llama-bpe.gguf");
  EXPECT_EQ(error_of(ErrorCode::format, [&] { File::open(path); }),
            path.string() + ": a git-lfs pointer, not the file itself; fetch the file with 'git lfs pull'");
}

TEST(Open, NamesAMissingFile) {
  EXPECT_THAT(error_of(ErrorCode::io, [] { File::open("no/such.gguf"); }), HasSubstr("no/such.gguf: cannot open"));
}

/// Writes a model of three parts with a tensor in each of the last two; `change` may spoil part `number`.
class SplitModel {
 public:
  void write(int number, std::uint16_t own_number, std::uint16_t own_count, std::int32_t tensors = 2) {
    Writer writer;
    if (number == 0) writer.set("general.name", "split");
    writer.set("split.no", own_number);
    writer.set("split.count", own_count);
    writer.set("split.tensors.count", tensors);
    if (number > 0) writer.add("t" + std::to_string(number), TensorType::f32, {1}, bytes_of(values_[number - 1]));
    writer.write(part(number));
  }
  void write_all() {
    for (int i = 0; i < 3; ++i) write(i, static_cast<std::uint16_t>(i), 3);
  }
  fs::path part(int number) const { return folder_ / ("m-0000" + std::to_string(number + 1) + "-of-00003.gguf"); }
  fs::path other(const std::string& name) const { return folder_ / name; }

 private:
  TemporaryFolder folder_;
  const std::vector<float> values_[2] = {{10}, {20}};
};

TEST(Split, AnyPartOpensTheWhole) {
  SplitModel model;
  model.write_all();
  for (int number = 0; number < 3; ++number) {
    const File file = File::open(model.part(number));
    EXPECT_EQ(file.path(), model.part(number).string());
    EXPECT_EQ(file.text("general.name"), "split");
    ASSERT_EQ(file.tensors().size(), 2u);
    float value = 0;
    std::memcpy(&value, file.tensor("t2").data.data(), sizeof value);
    EXPECT_EQ(value, 20.0f);
    EXPECT_EQ(file.size_bytes(),
              fs::file_size(model.part(0)) + fs::file_size(model.part(1)) + fs::file_size(model.part(2)));
  }
}

TEST(Split, InconsistentPartsAreRefused) {
  SplitModel model;
  const auto message = [&](ErrorCode code) { return error_of(code, [&] { File::open(model.part(0)); }); };
  model.write_all();
  model.write(1, 2, 3);
  EXPECT_EQ(message(ErrorCode::format), model.part(1).string() + ": metadata split.no: 2, expected 1");
  model.write(1, 1, 4);
  EXPECT_EQ(message(ErrorCode::format), model.part(1).string() + ": metadata split.count: 4, expected 3");
  model.write_all();
  model.write(0, 0, 3, 5);
  EXPECT_EQ(message(ErrorCode::format),
            model.part(0).string() + ": metadata split.tensors.count: 5, but the parts have 2");
  model.write_all();
  fs::remove(model.part(2));
  EXPECT_EQ(message(ErrorCode::io), model.part(2).string() + ": part 3 of 3 of the split model is missing");
  fs::copy_file(model.part(1), model.part(2));
  EXPECT_EQ(message(ErrorCode::format), model.part(2).string() + ": metadata split.no: 1, expected 2");
}

TEST(Split, ARenamedPartIsRefused) {
  SplitModel model;
  model.write_all();
  fs::rename(model.part(1), model.other("renamed.gguf"));
  EXPECT_THAT(error_of(ErrorCode::format, [&] { File::open(model.other("renamed.gguf")); }),
              HasSubstr("part of a split model, but its name does not end in -00002-of-00003.gguf"));
}

TEST(Split, ATensorInTwoPartsIsRefused) {
  SplitModel model;
  model.write_all();
  const std::vector<float> value{1};
  Writer writer;
  writer.set("split.no", std::uint16_t{2});
  writer.set("split.count", std::uint16_t{3});
  writer.add("t1", TensorType::f32, {1}, bytes_of(value));
  writer.write(model.part(2));
  EXPECT_THAT(error_of(ErrorCode::format, [&] { File::open(model.part(0)); }),
              HasSubstr("tensor t1: the name is there twice"));
}

TEST(Split, BytesInMemoryCannotBeSplit) {
  Writer writer;
  writer.set("split.count", std::uint16_t{2});
  const auto bytes = writer.bytes();
  EXPECT_THAT(error_of(ErrorCode::unsupported, [&] { File::parse(bytes, "m"); }), HasSubstr("split"));
}

}  // namespace
}  // namespace kvant::gguf
