#include "eval/haystack.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "eval/test_bytes.h"

namespace kvant::eval {
namespace {

using testing_data::byte_tokenizer;
using tokenizer::Token;

/// One letter for what may be put before each byte, and at the end: none, character, word, sentence.
std::string cuts(std::string_view text) {
  const auto tokenizer = byte_tokenizer();
  const Haystack haystack(tokenizer, text, "text");
  std::string letters;
  for (const Cut cut : haystack.cuts()) letters += "ncws"[static_cast<int>(cut)];
  return letters;
}

TEST(Haystack, CutsByHand) {
  EXPECT_EQ(cuts("Go. He"), "sccsscs");
  EXPECT_EQ(cuts("a  b!c"), "swwwccs");
  EXPECT_EQ(cuts("3.14 ."), "scccwws") << "a full stop within a number ends nothing";
  EXPECT_EQ(cuts("x\n\ny"), "swsss");
  EXPECT_EQ(cuts("(\"A.\") b"), "scccccsss");
  EXPECT_EQ(cuts("U.S. a"), "scccsss");
  // "a, ideographic full stop, b": nothing goes into a character, and no space is needed after the stop.
  EXPECT_EQ(cuts("a\xe3\x80\x82"
                 "b"),
            "scnnss");
  EXPECT_EQ(cuts("\xc3\xa9"
                 "e"),
            "sncs");
}

TEST(Haystack, ALongRunOfSpaceIsOneWordsEnd) {
  const std::string text = "a." + std::string(100, ' ') + "b";
  const std::string letters = cuts(text);
  EXPECT_EQ(letters[2], 's');
  EXPECT_EQ(letters[101], 'w') << "no more than some bytes are looked at";
}

/// The prompt as text; BOS is "^".
std::string prompt(std::string_view text, std::size_t length, const std::vector<std::pair<std::string, double>>& hidden,
                   std::uint64_t seed = 1, bool bos = false) {
  const auto tokenizer = byte_tokenizer(bos);
  const Haystack haystack(tokenizer, text, "text");
  std::vector<Needle> needles;
  for (const auto& [needle, depth] : hidden) needles.push_back({haystack.encode_inside(needle), depth});
  Random random(seed);
  const auto tokens = haystack.prompt(length, needles, haystack.encode_inside("Q?"), random);
  EXPECT_EQ(tokens.size(), length);
  std::string out;
  for (const Token token : tokens) out += token == 256 ? '^' : static_cast<char>(token);
  return out;
}

// The cuts of sentences: 0, 8 9, 20 21, 31.
constexpr std::string_view kText = "One two. Three four. Five six.";

TEST(Haystack, ANeedleIsPutWhereASentenceEnds) {
  const auto with = [](double depth) { return prompt(kText, 30 + 3 + 3, {{"N.", depth}}); };
  EXPECT_EQ(with(0), " N.One two. Three four. Five six. Q?");
  EXPECT_EQ(with(0.1), " N.One two. Three four. Five six. Q?");
  EXPECT_EQ(with(0.2), "One two. N. Three four. Five six. Q?");
  EXPECT_EQ(with(0.3), "One two.  N.Three four. Five six. Q?") << "9 is nearest to a place after the space";
  EXPECT_EQ(with(0.6), "One two. Three four. N. Five six. Q?");
  EXPECT_EQ(with(0.9), "One two. Three four. Five six. N. Q?");
  EXPECT_EQ(with(1), "One two. Three four. Five six. N. Q?");
}

TEST(Haystack, SeveralNeedlesKeepTheirPlacesAndOrder) {
  EXPECT_EQ(prompt(kText, 30 + 9 + 3, {{"C.", 1}, {"A.", 0.26}, {"B.", 0.25}}),
            "One two. A. B. Three four. Five six. C. Q?");
}

TEST(Haystack, BosIsInFront) {
  EXPECT_EQ(prompt(kText, 1 + 30 + 3 + 3, {{"N.", 0}}, 1, true), "^ N.One two. Three four. Five six. Q?");
}

TEST(Haystack, ALineEndNeedsNoSpace) {
  const auto tokenizer = byte_tokenizer();
  const Haystack haystack(tokenizer, kText, "text");
  EXPECT_EQ(tokenizer.decode(haystack.encode_inside("\nQ?")), "\nQ?");
  EXPECT_EQ(tokenizer.decode(haystack.encode_inside("Q?")), " Q?");
}

TEST(Haystack, WordsAndCharactersWhereNoSentenceEnds) {
  std::string words;
  for (int i = 0; i < 50; ++i) words += "abcd ";  // a word ends at 5 i - 1 and 5 i
  // 0.5 of 250 is 125; both ends are further than kReach.
  EXPECT_EQ(prompt(words, 256, {{"N.", 0.5}}), words.substr(0, 125) + " N." + words.substr(125) + " Q?");
  EXPECT_EQ(prompt(words, 256, {{"N.", 0.51}}), words.substr(0, 129 - 1) + "d N. " + words.substr(130) + " Q?");
  std::string characters;
  for (int i = 0; i < 100; ++i) characters += "\xe0\xb8\x81";  // Thai has no spaces
  EXPECT_EQ(prompt(characters, 306, {{"N.", 0.5}}), characters.substr(0, 150) + " N." + characters.substr(150) + " Q?");
  EXPECT_EQ(prompt(characters, 306, {{"N.", 0.497}}),
            characters.substr(0, 150) + " N." + characters.substr(150) + " Q?")
      << "149 is within a character";
}

TEST(Haystack, ExcerptsAreWholeSentencesFromAllOverTheText) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += fmt::format(" Line {:03}.", i);  // of 10 bytes
  std::set<std::string> seen;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const std::string excerpt = prompt(text, 53, {}, seed).substr(0, 50);
    EXPECT_TRUE(excerpt.starts_with(" Line ") || excerpt.starts_with("Line ")) << excerpt;
    EXPECT_TRUE(excerpt.ends_with(".") || excerpt.ends_with(". ")) << excerpt;
    EXPECT_NE(text.find(excerpt), text.npos);
    seen.insert(excerpt);
  }
  EXPECT_GT(seen.size(), 80u);
}

TEST(Haystack, NothingGoesIntoACharacter) {
  std::string text;
  for (int i = 0; i < 60; ++i)
    text +=
        "\xec\x95\x84\xeb\xac\xb4"
        "a\xc3\xa9";  // of 3, 3, 1 and 2 bytes
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    for (const std::size_t length : {100, 101, 102, 103}) {
      EXPECT_TRUE(is_valid_utf8(prompt(text, length, {{"N.", 0.01 * static_cast<double>(seed)}}, seed)));
    }
  }
}

TEST(Haystack, RefusesWhatDoesNotFit) {
  const auto message = [](std::size_t length) {
    try {
      prompt(kText, length, {{"N.", 0.5}});
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(message(36), "");
  EXPECT_EQ(message(37), "text: has 30 tokens, 31 are needed");
  EXPECT_EQ(message(6), "text: a prompt of 6 tokens has no room for it, since what is hidden and asked takes 6");
  EXPECT_EQ(message(7), "") << "one token of text";
  const auto tokenizer = byte_tokenizer();
  EXPECT_THROW(Haystack(tokenizer, "\xff", "text"), Error);
}

TEST(Haystack, RefusesToCutTheOnlyCharacter) {
  const auto tokenizer = byte_tokenizer();
  const Haystack haystack(tokenizer, "\xec\x95\x84", "text");
  Random random(1);
  EXPECT_THROW(haystack.prompt(4, {}, haystack.encode_inside("?"), random), Error);
}

}  // namespace
}  // namespace kvant::eval
