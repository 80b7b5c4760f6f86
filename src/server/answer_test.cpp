#include "server/answer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "base/utf8.h"
#include "tokenizer/test_vocab.h"

namespace kvant::server {
namespace {

using testing::ElementsAre;
using tokenizer::testing_data::TestVocab;

/// A tokenizer with a token for every byte and for some longer texts, id 256 and on.
class AnswerTest : public testing::Test {
 protected:
  AnswerTest() {
    vocab_.merge("a", "b");   // 256
    vocab_.merge("ab", "c");  // 257
    tokenizer_ = std::make_unique<tokenizer::Tokenizer>(tokenizer::Tokenizer::from(vocab_.file()));
  }
  Answer answer(std::vector<std::string> stops) const { return {*tokenizer_, std::move(stops)}; }
  /// Ids of the text's bytes.
  static std::vector<Token> bytes(std::string_view text) {
    std::vector<Token> tokens;
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }
  /// Everything that comes out, with '|' between what comes out together.
  static std::string run(Answer answer, std::vector<Token> tokens) {
    std::string text;
    const auto add = [&](const std::string& part) {
      if (!part.empty()) text += (text.empty() ? "" : "|") + part;
    };
    for (const Token token : tokens) add(answer.push(token).text);
    add(answer.finish().text);
    return text;
  }
  static engine::LogProbabilities probabilities(Token token) { return {{token, -1}, {}}; }
  static std::vector<Token> tokens(const Piece& piece) {
    std::vector<Token> result;
    for (const auto& p : piece.tokens) result.push_back(p.chosen.token);
    return result;
  }

  TestVocab vocab_ = TestVocab::all_bytes();
  std::unique_ptr<tokenizer::Tokenizer> tokenizer_;
};

TEST_F(AnswerTest, TextComesAsItIsDecodedInWholeCharacters) {
  EXPECT_EQ(run(answer({}), {257, 'x', 256}), "abc|x|ab");
  EXPECT_EQ(run(answer({}), bytes("a\xc3\xa4z\xf0\x9f\x98\x80")), "a|\xc3\xa4|z|\xf0\x9f\x98\x80");
}

TEST_F(AnswerTest, AnAnswerThatEndsInsideACharacterIsValidUtf8) {
  const std::string text = run(answer({}), bytes("a\xf0\x9f"));
  EXPECT_EQ(text, "a|\xef\xbf\xbd");
  EXPECT_TRUE(is_valid_utf8(run(answer({"\xf0\x9f\x98\x80"}), bytes("\xf0\x9f"))));
}

TEST_F(AnswerTest, StopsAcrossTokenBorders) {
  EXPECT_EQ(run(answer({"cab"}), {257, 256, 'x'}), "ab");
  EXPECT_EQ(run(answer({"bca"}), {257, 257}), "a") << "the stop string ends inside a token";
  EXPECT_EQ(run(answer({"abc"}), {257}), "");
}

TEST_F(AnswerTest, HoldsBackOnlyWhatMayBecomeAStop) {
  EXPECT_EQ(run(answer({"aab"}), bytes("xaaab!")), "x|a");
  EXPECT_EQ(run(answer({"aab"}), bytes("xaac")), "x|aac");
  EXPECT_EQ(run(answer({"aab"}), bytes("xaa")), "x|aa") << "at the end what is held back comes";
}

TEST_F(AnswerTest, TheStopThatIsCompleteFirstCounts) {
  EXPECT_EQ(run(answer({"xabc", "ab"}), {'x', 257}), "x");
  EXPECT_EQ(run(answer({"xabc", "ab"}), {'x', 'a', 'b', 'c'}), "x");
  EXPECT_EQ(run(answer({"b", "ab"}), {'x', 256}), "x") << "of two that end together the longer";
}

TEST_F(AnswerTest, NothingComesAfterAStop) {
  Answer a = answer({"b"});
  EXPECT_EQ(a.push(256).text, "a");
  EXPECT_TRUE(a.stopped());
  EXPECT_EQ(a.push('x').text, "");
  EXPECT_EQ(a.finish().text, "");
}

TEST_F(AnswerTest, ATextDoesNotDependOnItsTokens) {
  // All ways to cut "abcabcab" into the tokens a, b, c, ab, abc, for several sets of stop strings.
  for (const auto& stops : std::vector<std::vector<std::string>>{{}, {"ca"}, {"bcab", "cabc"}, {"abca", "c"}, {"zz"}}) {
    std::vector<std::vector<Token>> ways{{}};
    const std::string text = "abcabcab";
    std::vector<std::vector<Token>> done;
    const auto extend = [&](auto&& self, std::vector<Token> way, std::size_t at) -> void {
      if (at == text.size()) {
        done.push_back(way);
        return;
      }
      const std::pair<std::string, Token> tokens[] = {{"a", 'a'}, {"b", 'b'}, {"c", 'c'}, {"ab", 256}, {"abc", 257}};
      for (const auto& [piece, token] : tokens) {
        if (text.compare(at, piece.size(), piece) != 0) continue;
        way.push_back(token);
        self(self, way, at + piece.size());
        way.pop_back();
      }
    };
    extend(extend, {}, 0);
    ASSERT_EQ(done.size(), 18u);
    const auto whole = [&](const std::vector<Token>& way) {
      std::string out = run(answer(stops), way);
      std::erase(out, '|');
      return out;
    };
    for (const auto& way : done) EXPECT_EQ(whole(way), whole(done.front()));
  }
}

TEST_F(AnswerTest, ProbabilitiesComeWithTheTextOfTheirTokens) {
  Answer a = answer({"cx"});
  Piece piece = a.push('y', probabilities('y'));
  EXPECT_EQ(piece.text, "y");
  EXPECT_THAT(tokens(piece), ElementsAre('y'));
  piece = a.push(257, probabilities(257));
  EXPECT_EQ(piece.text, "ab") << "c may be the start of the stop string";
  EXPECT_THAT(tokens(piece), ElementsAre());
  piece = a.push('z', probabilities('z'));
  EXPECT_EQ(piece.text, "cz");
  EXPECT_THAT(tokens(piece), ElementsAre(257, 'z'));
  piece = a.push(257, probabilities(257));
  piece = a.push('x', probabilities('x'));
  EXPECT_EQ(piece.text, "");
  EXPECT_THAT(tokens(piece), ElementsAre(257)) << "some of its text is out, none of the stop's last token";
  EXPECT_THAT(tokens(a.finish()), ElementsAre());
}

TEST_F(AnswerTest, AnEmptyStopStringIsRefused) { EXPECT_THROW(answer({""}), Error); }

}  // namespace
}  // namespace kvant::server
