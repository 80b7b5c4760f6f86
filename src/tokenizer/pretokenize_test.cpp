#include "tokenizer/pretokenize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>

#include "base/file_io.h"
#include "base/random.h"
#include "tokenizer/test_data.h"
#include "tokenizer/word_oracle.h"

namespace kvant::tokenizer {
namespace {

using Words = std::vector<std::string>;

Words words(std::string_view pre, std::string_view text) {
  const WordSplitter splitter(find_pre_tokenizer(pre)->pattern);
  WordSplitter::Words split(splitter, text);
  Words out;
  for (auto word = split.next(); !word.empty(); word = split.next()) out.emplace_back(word);
  return out;
}

TEST(PreTokenizer, Qwen2Words) {
  EXPECT_EQ(words("qwen2", "Hello, world's 123!\n\n  x"),
            (Words{"Hello", ",", " world", "'s", " ", "1", "2", "3", "!\n\n", " ", " x"}));
  EXPECT_EQ(words("qwen2", "we'LL   "), (Words{"we", "'LL", "   "}));
  EXPECT_EQ(words("qwen2", ""), Words{});
}

TEST(PreTokenizer, Llama3TakesThreeDigits) { EXPECT_EQ(words("llama-bpe", "12345 a"), (Words{"123", "45", " a"})); }

TEST(PreTokenizer, Gpt2) {
  EXPECT_EQ(words("gpt-2", "We'LL 123's  x"), (Words{"We", "'", "LL", " 123", "'s", " ", " x"}));
}

TEST(PreTokenizer, MongolianVowelSeparatorIsNoSpace) {
  EXPECT_EQ(words("qwen2", "x \xe1\xa0\x8e\xe1\xa0\x8e y"), (Words{"x", " \xe1\xa0\x8e\xe1\xa0\x8e", " y"}));
}

TEST(PreTokenizer, UnknownNamesAreNotFound) {
  EXPECT_EQ(find_pre_tokenizer("qwen9"), nullptr);
  EXPECT_THAT(pre_tokenizer_names(), testing::HasSubstr("qwen2, "));
}

TEST(WordSplitter, WhatThePatternLeavesOutIsAWord) {
  const WordSplitter splitter("[a-z]+");
  WordSplitter::Words split(splitter, "1ab-c2");
  for (const char* word : {"1", "ab", "-", "c", "2", ""}) EXPECT_EQ(split.next(), word);
}

#ifdef KVANT_HAS_ONIGURUMA

constexpr std::string_view kOriginalQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kOriginalLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kOriginalGpt2 =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

void append_utf8(std::uint32_t point, std::string& out) {
  if (point < 0x80) {
    out += static_cast<char>(point);
  } else if (point < 0x800) {
    out += static_cast<char>(0xc0 | point >> 6);
    out += static_cast<char>(0x80 | (point & 0x3f));
  } else {
    if (point < 0x10000) {
      out += static_cast<char>(0xe0 | point >> 12);
    } else {
      out += static_cast<char>(0xf0 | point >> 18);
      out += static_cast<char>(0x80 | (point >> 12 & 0x3f));
    }
    out += static_cast<char>(0x80 | (point >> 6 & 0x3f));
    out += static_cast<char>(0x80 | (point & 0x3f));
  }
}

/// Text of everything that a pattern could trip over: all planes, all kinds of space, apostrophes before letters.
std::string torture(std::size_t characters) {
  constexpr std::array<std::uint32_t, 40> kOften{
      '\'', '\'', 's',    'S',    't',    'r',    'e',    'v',    'l',    'L',    'm',    'd',    ' ',    ' ',
      ' ',  '\n', '\r',   '\t',   '\v',   '\f',   0x85,   0xa0,   0x1680, 0x180e, 0x2000, 0x200a, 0x200b, 0x2028,
      '7',  '.',  0x2029, 0x202f, 0x205f, 0x3000, 0x017f, 0x212a, 0x300,  0x661,  0xbd,   0xfeff};
  Random random(5);
  std::string text;
  for (std::size_t i = 0; i < characters; ++i) {
    std::uint32_t point = kOften[random.next() % kOften.size()];
    if (random.next() % 3 == 0) {
      const std::uint32_t limit = random.next() % 2 == 0 ? 0x3000 : 0x110000;
      do point = static_cast<std::uint32_t>(random.next() % limit);
      while (point >= 0xd800 && point < 0xe000);
    }
    append_utf8(point, text);
  }
  return text;
}

TEST(PreTokenizer, EqualsOnigurumaOnTortureText) {
  const std::string text = torture(400000);
  EXPECT_TRUE(words("qwen2", text) == oniguruma_words(kOriginalQwen2, text));
  EXPECT_TRUE(words("llama-bpe", text) == oniguruma_words(kOriginalLlama3, text));
  EXPECT_TRUE(words("gpt-2", text) == oniguruma_words(kOriginalGpt2, text));
}

TEST(PreTokenizer, EqualsOnigurumaOnRealText) {
  const auto folder = testing_data::data_file("text");
  KVANT_NEEDS(folder);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const std::string text = read_text(entry.path().string());
    EXPECT_TRUE(words("qwen2", text) == oniguruma_words(kOriginalQwen2, text)) << entry.path();
  }
}

#endif

}  // namespace
}  // namespace kvant::tokenizer
