#include "eval/cache_pair.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
