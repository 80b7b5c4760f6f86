#include "eval/cache_pair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/error.h"

namespace kvant::eval {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> names(std::string_view text) {
  std::vector<std::string> result;
  for (const CachePair& pair : parse_cache_list(text)) result.push_back(to_string(pair));
  return result;
}

std::string refusal(std::string_view text) {
  try {
    parse_cache_list(text);
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    return e.what();
  }
  return "accepted";
}

TEST(CacheList, OnePair) {
  EXPECT_THAT(names("q8_0"), ElementsAre("q8_0/f16"));
  EXPECT_THAT(names("rot-q4_0/q5_1"), ElementsAre("rot-q4_0/q5_1"));
}

TEST(CacheList, CommasSeparatePairsAndKeys) {
  EXPECT_THAT(names("q8_0,q4_0/q5_1,f32"), ElementsAre("q8_0/f16", "q4_0/q5_1", "f32/f16"));
  EXPECT_THAT(names("lm4,anchor=none,lm3,group=32,scale=none"),
              ElementsAre("lm4,anchor=none/f16", "lm3,scale=none,group=32/f16"));
}

TEST(CacheList, TheSecondSpecHasKeysOfItsOwn) {
  EXPECT_THAT(names("lm4,anchor=none/lm3,group=32,q8_0"), ElementsAre("lm4,anchor=none/lm3,group=32", "q8_0/f16"));
}

TEST(CacheList, SlashesOfFileNamesStay) {
  EXPECT_THAT(names("lm4,anchor=mean,plan=a/b.gguf"), ElementsAre("lm4,anchor=mean,plan=a/b.gguf/f16"));
  EXPECT_THAT(names("lm4,anchor=mean,plan=a/b.gguf/q8_0"), ElementsAre("lm4,anchor=mean,plan=a/b.gguf/q8_0"));
}

TEST(CacheList, WhatIsPrintedIsReadBack) {
  for (const char* text : {"q8_0/f32", "lm4,anchor=none/lm3", "uni6,sinks=4,recent=32/uni4,sinks=4"}) {
    const auto pairs = parse_cache_list(text);
    ASSERT_EQ(pairs.size(), 1u);
    EXPECT_THAT(parse_cache_list(to_string(pairs[0])), ElementsAre(pairs[0]));
  }
}

TEST(CacheList, PlannedTypes) {
  EXPECT_THAT(names("plan,plan=a/b.gguf,q8_0"), ElementsAre("plan,plan=a/b.gguf/f16", "q8_0/f16"));
  EXPECT_THAT(names("plan,plan=a/plan/b.gguf/plan,sinks=4,plan=c/d.gguf"),
              ElementsAre("plan,plan=a/plan/b.gguf/plan,sinks=4,plan=c/d.gguf"));
  EXPECT_THAT(names("q8_0/plan,plan=c/d.gguf"), ElementsAre("q8_0/plan,plan=c/d.gguf"));
}

/// A plan with codes of the keys.
std::string write_plan() {
  codec::Plan plan;
  plan.model = {.architecture = "qwen2",
                .layers = 1,
                .embedding = 8,
                .heads = 1,
                .kv_heads = 1,
                .head_dim = 2,
                .rope_dims = 2,
                .rope_base = 1,
                .rope_scaling = "none"};
  plan.layers = {{{1, 2}, {1, 2}, {1, 2}, {1, 0, 1}, {1, 0, 1}, {1, 0, 1}}};
  const std::vector<Bf16> matrix(64);
  plan.codes = {{{{matrix, matrix, {{.dims = 32}}}}, {}}};
  plan.v_type = "lm4,shape=none";
  const std::string path = testing::TempDir() + "kvant_cache_pair_test.gguf";
  codec::write_plan(path, plan);
  return path;
}

TEST(CacheList, PlansStandForBothSides) {
  const std::string path = write_plan(), pair = "plan,plan=" + path + "/lm4,shape=none";
  EXPECT_THAT(names("q8_0,plan:" + path + ",f16"), ElementsAre("q8_0/f16", pair, "f16/f16"));
  EXPECT_EQ(plan_pair(path), parse_cache_list(pair)[0]);
  codec::Plan plan = codec::read_plan(path);
  plan.codes.clear();
  codec::write_plan(path, plan);
  EXPECT_EQ(to_string(plan_pair(path)), "f16/lm4,shape=none");
  plan.v_type = "f16";
  codec::write_plan(path, plan);
  EXPECT_THAT(refusal("plan:" + path), HasSubstr(path + ": has statistics only, no codes"));
  std::filesystem::remove(path);
  EXPECT_THAT([&] { plan_pair(path); }, testing::ThrowsMessage<Error>(HasSubstr(path)));
}

TEST(CacheList, Refusals) {
  EXPECT_THAT(refusal("q9_9"), HasSubstr("cache type 'q9_9': unknown, expected one of f32 f16"));
  EXPECT_THAT(refusal("q8_0/q9_9"), HasSubstr("cache type 'q8_0/q9_9': unknown"));
  EXPECT_THAT(refusal("q8_0/q4_0/f16"), HasSubstr("cache type 'q4_0/f16': unknown"));
  EXPECT_THAT(refusal("q8_0,,q4_0"), HasSubstr("cache type '': unknown"));
  EXPECT_THAT(refusal(""), HasSubstr("cache type '': unknown"));
  EXPECT_THAT(refusal("anchor=none"), HasSubstr("unknown"));
  EXPECT_THAT(refusal("lm4,colour=red"), HasSubstr("unknown key 'colour'"));
}

}  // namespace
}  // namespace kvant::eval
