#include "sweep/content.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "gguf/writer.h"
#include "sweep/test_folder.h"

namespace kvant::sweep {
namespace {

using testing::HasSubstr;

/// A file with a large tensor of known bytes, one of which may be changed.
std::string hash_of(const TestFolder& folder, std::size_t changed, const char* more = nullptr) {
  constexpr std::size_t kValues = std::size_t{1} << 18;  // of four bytes
  std::vector<float> values(kValues);
  for (std::size_t i = 0; i < kValues; ++i) values[i] = static_cast<float>(i);
  if (changed < kValues) values[changed] = -1;
  gguf::Writer writer;
  writer.set("general.architecture", "qwen2");
  if (more != nullptr) writer.set(more, std::uint64_t{1});
  const std::vector<std::size_t> shape = {1024, kValues / 1024};
  writer.add("weight", gguf::TensorType::f32, shape, std::as_bytes(std::span(values)));
  writer.write(folder.path("model.gguf"));
  return model_hash(gguf::File::open(folder.path("model.gguf")));
}

TEST(Content, ModelsAreToldApart) {
  const TestFolder folder;
  constexpr std::size_t kNothing = ~std::size_t{0};
  const std::string hash = hash_of(folder, kNothing);
  EXPECT_EQ(hash.size(), 16u);
  EXPECT_EQ(hash_of(folder, kNothing), hash);
  EXPECT_NE(hash_of(folder, 0), hash);
  EXPECT_NE(hash_of(folder, (std::size_t{1} << 18) - 1), hash);  // the last piece ends with the tensor
  EXPECT_NE(hash_of(folder, kNothing, "general.more"), hash);
  EXPECT_EQ(hash_of(folder, kNothing, "split.more"), hash);  // how a model is split says nothing about it
}

TEST(Content, HashOfAFile) {
  const TestFolder folder;
  const std::string empty = folder.write("empty", ""), text = folder.write("text", "abc");
  EXPECT_EQ(file_hash(empty), "2d06800538d394c2");  // XXH3-64 of nothing, seed 0
  EXPECT_EQ(file_hash(text), content_hash("abc"));
  EXPECT_NE(file_hash(text), file_hash(empty));
  EXPECT_THROW(file_hash(folder.path("none")), Error);
}

TEST(Content, PlanRowTellsBitsAndParts) {
  const std::string path = KVANT_SOURCE_DIR "/tests/compat/plan-1.gguf";
  const codec::Plan plan = codec::read_plan(path);
  const PlanRow row = plan_row(path, "codes.gguf", "1234");
  EXPECT_EQ(row.file, "codes.gguf");
  EXPECT_EQ(row.hash, "1234");
  EXPECT_EQ(row.bytes, std::filesystem::file_size(path));
  std::size_t heads = 0;
  for (const codec::LayerCodes& layer : plan.codes) heads += layer.keys.size() + layer.values.size();
  ASSERT_GT(heads, 0u);
  ASSERT_EQ(row.heads.size(), heads);
  for (const PlanHead& head : row.heads) {
    const codec::LayerCodes& codes = plan.codes[head.layer];
    const codec::HeadCode& code = (head.side == "k" ? codes.keys : codes.values)[head.kv_head];
    EXPECT_EQ(head.bits, codec::bits_per_value(code.parts, plan.model.head_dim));
    EXPECT_EQ(static_cast<std::size_t>(std::count(head.parts.begin(), head.parts.end(), ',')) + 1, code.parts.size());
    EXPECT_THAT(head.parts, HasSubstr(std::to_string(code.parts.front().dims) + " "));
  }
}

TEST(Content, ChannelsAreThoseOfThePlan) {
  codec::Plan plan;
  plan.model.head_dim = 2;
  plan.model.kv_heads = 2;
  plan.layers.resize(1);
  plan.layers[0].k_mean = {1, 2, 3, 4};
  plan.layers[0].k_moment = {4, 99, 9, 16, 99, 25};  // lower triangles
  const std::vector<ChannelRow> rows = channel_rows(plan);
  ASSERT_EQ(rows.size(), 4u);
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(rows[i].kv_head, i / 2);
    EXPECT_EQ(rows[i].channel, i % 2);
    EXPECT_EQ(rows[i].mean, static_cast<double>(i) + 1);
    EXPECT_EQ(rows[i].deviation, static_cast<double>(i) + 2);
  }
}

}  // namespace
}  // namespace kvant::sweep
