#include "tokenizer/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "base/error.h"
#include "base/random.h"
#include "tokenizer/test_data.h"

namespace kvant::tokenizer {
namespace {

using testing::HasSubstr;
using testing_data::TestVocab;

/// A vocabulary of `count` random merges of the letters a to d and what became of them.
TestVocab random_vocab(Random& random, int count) {
  auto vocab = TestVocab::all_bytes();
  std::vector<std::string> parts{"a", "b", "c", "d"};
  while (count > 0) {
    const std::string& left = parts[random.next() % parts.size()];
    const std::string& right = parts[random.next() % parts.size()];
    const bool known = std::find(parts.begin(), parts.end(), left + right) != parts.end();
    if (left.size() + right.size() > 8 || known) continue;
    vocab.merge(left, right);
    parts.push_back(left + right);
    --count;
  }
  return vocab;
}

/// Merges by the definition: the pair of the lowest rank, leftmost first, until there is none. Quadratic.
std::vector<std::string> merged_by_definition(const TestVocab& vocab, const std::string& word) {
  std::map<std::string, std::size_t> ranks;
  for (std::size_t i = 0; i < vocab.merges.size(); ++i) ranks.emplace(vocab.merges[i], i);
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    std::size_t best_rank = ranks.size();
    std::size_t best = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find(parts[i] + " " + parts[i + 1]);
      if (found != ranks.end() && found->second < best_rank) {
        best_rank = found->second;
        best = i;
      }
    }
    if (best_rank == ranks.size()) return parts;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(Bpe, MergesAsDefined) {
  Random random(21);
  for (int round = 0; round < 40; ++round) {
    auto vocab = random_vocab(random, 30);
    const auto tokenizer = Tokenizer::from(vocab.file());
    for (int text = 0; text < 40; ++text) {
      std::string word;
      for (std::uint64_t i = random.next() % 40 + 1; i > 0; --i) word += static_cast<char>('a' + random.next() % 4);
      std::vector<std::string> parts;
      for (const Token id : tokenizer.encode(word)) parts.emplace_back(tokenizer.piece(id));
      ASSERT_EQ(parts, merged_by_definition(vocab, word)) << word;
    }
  }
}

TEST(Bpe, RepeatedWordsGiveTheSameIds) {
  Random random(22);
  auto vocab = random_vocab(random, 30);
  const auto tokenizer = Tokenizer::from(vocab.file());
  std::string text;
  std::vector<Token> expected;
  for (int i = 0; i < 50; ++i) {
    const std::string word = i % 3 == 0   ? "abcdabcd"
                             : i % 3 == 1 ? "dcba"
                                          : std::string(static_cast<std::size_t>(i), 'a');
    text += word + "\n";
    for (const auto& part : {word, std::string("\n")}) {
      for (const Token id : tokenizer.encode(part)) expected.push_back(id);
    }
  }
  EXPECT_EQ(tokenizer.encode(text), expected);
}

TEST(Bpe, Llama3TakesWholeWordsThatAreTokens) {
  auto vocab = TestVocab::all_bytes();
  vocab.merge("a", "b");
  vocab.add("abc");  // no merge leads here
  const auto ids = [&](const std::string& pre) {
    vocab.pre = pre;
    return Tokenizer::from(vocab.file()).encode("abc");
  };
  EXPECT_EQ(ids("llama-bpe"), std::vector<Token>{257});
  EXPECT_EQ(ids("qwen2"), (std::vector<Token>{256, 'c'}));
}

TEST(Bpe, FirstOfEqualMergesCounts) {
  auto vocab = TestVocab::all_bytes();
  vocab.merge("a", "b");
  vocab.merge("b", "c");
  vocab.merges.push_back("a b");
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.piece(tokenizer.encode("abc").front()), "ab");
}

TEST(Bpe, MergesOfUnknownTokensAreLeftOut) {
  auto vocab = TestVocab::all_bytes();
  vocab.merges = {"a b", "xyz a"};  // "ab" and "xyz" are no tokens
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.encode("ab").size(), 2u);
}

TEST(Bpe, BrokenMergesAreRefused) {
  for (const char* bad : {"", "ab", " ab", "ab ", "a b c", "a \xff", "a \xe2\x82\xac"}) {
    auto vocab = TestVocab::all_bytes();
    vocab.merges = {"a b", bad};
    try {
      Tokenizer::from(vocab.file());
      ADD_FAILURE() << bad;
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ErrorCode::format);
      EXPECT_THAT(e.what(), HasSubstr("made-up.gguf: tokenizer.ggml.merges: entry 1"));
    }
  }
}

TEST(Bpe, MissingByteIsAnErrorOrTheUnknownToken) {
  TestVocab vocab;
  vocab.add("a");
  vocab.add("<unk>", TokenType::unknown);
  try {
    Tokenizer::from(vocab.file()).encode("ab");
    ADD_FAILURE();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::invalid_argument);
    EXPECT_THAT(e.what(), HasSubstr("no token for byte 0x62"));
  }
  vocab.extra.set("tokenizer.ggml.unknown_token_id", std::uint32_t{1});
  EXPECT_EQ(Tokenizer::from(vocab.file()).encode("ab"), (std::vector<Token>{0, 1}));
}

TEST(ByteLevel, EveryByteHasItsCharacter) {
  for (int b = 0; b < 256; ++b) {
    std::string out = "x";
    ASSERT_TRUE(append_byte_level(TestVocab::spelled(static_cast<std::uint8_t>(b)), out)) << b;
    EXPECT_EQ(out, std::string("x") + static_cast<char>(b));
  }
}

TEST(ByteLevel, OtherCharactersAreRefused) {
  for (const char* bad : {" ", "\n", "a\xc2", "\xc2\xad", "\xc2\x41", "\xc5\x84", "\xc8\x80", "\xe2\x82\xac", "\x80"}) {
    std::string out = "x";
    EXPECT_FALSE(append_byte_level(bad, out)) << bad;
    EXPECT_EQ(out, "x");
  }
}

}  // namespace
}  // namespace kvant::tokenizer
