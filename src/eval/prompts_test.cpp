#include "eval/prompts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace kvant::eval {
namespace {

using testing::ElementsAre;

std::vector<std::string> parse(std::string_view text) { return parse_prompts(text, "prompts.txt"); }

TEST(Prompts, EveryLineIsOne) {
  EXPECT_THAT(parse("a b\n\n  \n c\r\nlast"), ElementsAre("a b", " c", "last"));
  EXPECT_THAT(parse("--- \n----\n"), ElementsAre("--- ", "----")) << "neither is a separator";
}

TEST(Prompts, BlocksBetweenSeparators) {
  EXPECT_THAT(parse("a\nb\n---\n\n c\n \n d\n\n\n---\n---\r\ne"), ElementsAre("a\nb", " c\n\n d", "e"));
  EXPECT_THAT(parse("---\none line"), ElementsAre("one line"));
}

TEST(Prompts, RefusesNothingAndInvalidText) {
  for (const char* text : {"", "\n \n\t\r\n", "---", "---\n\n---\n"}) {
    try {
      parse(text);
      FAIL() << text;
    } catch (const Error& e) {
      EXPECT_STREQ(e.what(), "prompts.txt: holds no prompt");
    }
  }
  EXPECT_THROW(parse("a\n\xff"), Error);
}

}  // namespace
}  // namespace kvant::eval
