#include "eval/scripts.h"

#include <gtest/gtest.h>

#include <numeric>

namespace kvant::eval {
namespace {

// "Aa", Greek alpha beta, Cyrillic ya, Han "middle", Hiragana "a", Katakana "a", Hangul "han", Thai "ko kai"
constexpr std::string_view kLatin = "Aa", kGreek = "\xce\xb1\xce\xb2", kCyrillic = "\xd1\x8f", kHan = "\xe4\xb8\xad",
                           kHiragana = "\xe3\x81\x82", kKatakana = "\xe3\x82\xa2", kHangul = "\xed\x95\x9c",
                           kThai = "\xe0\xb8\x81";

std::size_t foreign(std::string_view text, std::string_view reference) {
  const Scripts scripts;
  return foreign_characters(scripts.count(text), scripts.count(reference));
}

std::size_t belonging(const ScriptCounts& counts) {
  return std::accumulate(counts.scripts.begin(), counts.scripts.end(), std::size_t{0});
}

TEST(Scripts, EachIsForeignToTheOthers) {
  const std::string_view all[] = {kLatin, kGreek, kCyrillic, kHan, kHiragana, kKatakana, kHangul, kThai};
  const Scripts scripts;
  for (const std::string_view a : all) {
    for (const std::string_view b : all) {
      EXPECT_EQ(foreign(a, b), a == b ? 0 : scripts.count(a).characters) << a << " " << b;
    }
  }
}

TEST(Scripts, CountsCharactersOfMixedText) {
  const std::string text = std::string(kLatin) + " 1, " + std::string(kGreek) + std::string(kHan);
  EXPECT_EQ(Scripts().count(text).characters, 2u + 4 + 2 + 1);
  EXPECT_EQ(belonging(Scripts().count(text)), 5u);
  EXPECT_EQ(foreign(text, "b"), 3u);
  EXPECT_EQ(foreign(text, kGreek), 3u);
  EXPECT_EQ(foreign(text, text), 0u);
  EXPECT_EQ(foreign(text, ""), 5u);
  EXPECT_EQ(foreign("", text), 0u);
}

TEST(Scripts, SharedCharactersAreNeverForeign) {
  // Digits, punctuation, an emoji, an ideographic full stop, a danda, a combining acute accent, a prolonged sound mark.
  const std::string_view shared = "1 !\n\xf0\x9f\x98\x80\xe3\x80\x82\xe0\xa5\xa4\xcc\x81\xe3\x83\xbc";
  const ScriptCounts counts = Scripts().count(shared);
  EXPECT_EQ(counts.characters, 9u);
  EXPECT_EQ(belonging(counts), 0u);
}

TEST(Scripts, InvalidBytesAreCharactersOfNoScript) {
  const std::string text = std::string(kLatin) + "\xff\xe4\xb8" + std::string(kHan) + "\x80";
  const ScriptCounts counts = Scripts().count(text);
  EXPECT_EQ(counts.characters, 2u + 3 + 1 + 1);
  EXPECT_EQ(belonging(counts), 3u);
  EXPECT_EQ(foreign(text, "a"), 1u);
}

TEST(Scripts, RareScriptsAreOneMore) {
  // Cherokee, Gothic; both are in no list of scripts for everyday names.
  EXPECT_EQ(foreign("\xe1\x8e\xa0", "a"), 1u);
  EXPECT_EQ(foreign("\xe1\x8e\xa0", "\xf0\x90\x8c\xb0"), 0u);
}

}  // namespace
}  // namespace kvant::eval
