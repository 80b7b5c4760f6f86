#include "tokenizer/sentencepiece.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "base/random.h"
#include "base/utf8.h"
#include "tokenizer/test_data.h"

namespace kvant::tokenizer {
namespace {

using testing::HasSubstr;
using testing_data::TestVocab;

/// <unk> <s> </s> and, with `bytes`, the 256 byte tokens.
TestVocab base_vocab(bool bytes = true) {
  TestVocab vocab;
  vocab.model = "llama";
  vocab.add("<unk>", TokenType::unknown);
  vocab.add("<s>", TokenType::control);
  vocab.add("</s>", TokenType::control);
  for (unsigned b = 0; bytes && b < 256; ++b) vocab.add(fmt::format("<0x{:02X}>", b), TokenType::byte);
  return vocab;
}

const std::string kMark = "\xe2\x96\x81";

std::vector<std::string> pieces(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> out;
  for (const Token id : tokenizer.encode(text)) out.emplace_back(tokenizer.piece(id));
  return out;
}

/// Joins neighbours by the definition: the token of the highest score, leftmost first, until none joins. Quadratic.
std::vector<std::string> joined_by_definition(const std::map<std::string, float>& scores, const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at < text.size(); at += parts.back().size()) {
    parts.push_back(text.substr(at, utf8_sequence_length(std::string_view(text).substr(at))));
  }
  for (;;) {
    auto best = scores.end();
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = scores.find(parts[i] + parts[i + 1]);
      if (found == scores.end() || (best != scores.end() && found->second <= best->second)) continue;
      best = found;
      place = i;
    }
    if (best == scores.end()) return parts;
    parts[place] += parts[place + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

/// Vocabularies of random texts over a few characters, where spaces stand only at the start of a token or anywhere.
void expect_joins_as_defined(bool space_anywhere) {
  Random random(space_anywhere ? 31 : 32);
  const std::vector<std::string> letters{" ", "a", "b", "\xc3\xa4"};
  for (int round = 0; round < 60; ++round) {
    auto vocab = base_vocab();
    std::map<std::string, float> scores;
    for (const std::string& letter : letters) scores[letter] = -100;
    for (int i = 0; i < 40; ++i) {
      std::string token;
      for (std::uint64_t n = random.next() % 4 + 2; n > 0; --n) token += letters[random.next() % letters.size()];
      if (!space_anywhere && token.find(' ', token.find_first_not_of(' ')) != std::string::npos) continue;
      scores.emplace(token, -static_cast<float>(random.next() % 10));  // with ties
    }
    for (const auto& [token, score] : scores) {
      std::string text;
      for (const char c : token) text += c == ' ' ? kMark : std::string(1, c);
      vocab.add(text, TokenType::normal, score);
    }
    const auto tokenizer = Tokenizer::from(vocab.file());
    for (int i = 0; i < 40; ++i) {
      std::string text;
      for (std::uint64_t n = random.next() % 30 + 1; n > 0; --n) text += letters[random.next() % letters.size()];
      ASSERT_EQ(pieces(tokenizer, text), joined_by_definition(scores, " " + text)) << text;
      ASSERT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
    }
  }
}

TEST(SentencePiece, JoinsAsDefined) { expect_joins_as_defined(false); }
TEST(SentencePiece, JoinsAsDefinedWhereTokensSpanSpaces) { expect_joins_as_defined(true); }

TEST(SentencePiece, CharactersWithoutATokenBecomeBytes) {
  auto vocab = base_vocab();
  vocab.add(kMark);
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.encode("\xe2\x82\xac"), (std::vector<Token>{259, 3 + 0xe2, 3 + 0x82, 3 + 0xac}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("\xe2\x82\xac")), "\xe2\x82\xac");
}

TEST(SentencePiece, MissingByteIsTheUnknownTokenOrAnError) {
  auto vocab = base_vocab(false);
  vocab.add(kMark + "a");
  vocab.add(kMark);
  vocab.add("a");
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.encode("ab"), (std::vector<Token>{3, 0}));
  vocab.types[0] = static_cast<std::int32_t>(TokenType::normal);
  try {
    Tokenizer::from(vocab.file()).encode("ab");
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("no token for byte 0x62"));
  }
}

TEST(SentencePiece, SpacePrefixCanBeSwitchedOff) {
  auto vocab = base_vocab();
  vocab.add("a");
  vocab.extra.set("tokenizer.ggml.add_space_prefix", false);
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_FALSE(tokenizer.space_prefix());
  EXPECT_EQ(tokenizer.encode("a"), std::vector<Token>{259});
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(" a")), " a");
}

TEST(SentencePiece, EachTextAfterASpecialTokenGetsItsSpace) {
  auto vocab = base_vocab();
  vocab.add(kMark + "a");
  vocab.add(kMark);
  vocab.add("a");
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.encode("a</s>a"), (std::vector<Token>{259, 2, 259}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a</s>a"), true), "a</s>a");
}

}  // namespace
}  // namespace kvant::tokenizer
