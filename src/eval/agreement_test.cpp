#include "eval/agreement.h"

#include <gtest/gtest.h>

#include "eval/test_bytes.h"

namespace kvant::eval {
namespace {

Continuation compare(std::string_view reference, std::string_view other) {
  const auto tokenizer = testing_data::byte_tokenizer();
  return compare_continuations(tokenizer, Scripts(), tokenizer.encode(reference), tokenizer.encode(other));
}

void expect(const Continuation& is, std::size_t agreement, bool identical, double same, std::size_t characters,
            std::size_t foreign) {
  EXPECT_EQ(is.agreement, agreement);
  EXPECT_EQ(is.identical, identical);
  EXPECT_DOUBLE_EQ(is.same, same);
  EXPECT_EQ(is.characters, characters);
  EXPECT_EQ(is.foreign, foreign);
}

TEST(CompareContinuations, ByHand) {
  expect(compare("abcd", "abcd"), 4, true, 1, 4, 0);
  expect(compare("abcd", "abxd"), 2, false, 0.75, 4, 0);
  expect(compare("abcd", "xbcd"), 0, false, 0.75, 4, 0);
  expect(compare("abcd", "ab"), 2, false, 0.5, 2, 0);
  expect(compare("ab", "abcd"), 2, false, 0.5, 4, 0);
  expect(compare("", ""), 0, true, 1, 0, 0);
  expect(compare("ab", ""), 0, false, 0, 0, 0);
  expect(compare("", "ab"), 0, false, 0, 2, 2);
  // Greek alpha for b: two bytes, one character of another script.
  expect(compare("abcd",
                 "a\xce\xb1"
                 "d"),
         1, false, 0.5, 3, 1);
}

}  // namespace
}  // namespace kvant::eval
