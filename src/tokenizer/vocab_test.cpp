#include "tokenizer/vocab.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "base/random.h"
#include "tokenizer/test_data.h"

namespace kvant::tokenizer {
namespace {

using testing::HasSubstr;
using testing_data::TestVocab;

void expect_refused(TestVocab& vocab, ErrorCode code, const std::string& part) {
  try {
    Tokenizer::from(vocab.file());
    ADD_FAILURE() << "expected an error with: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_THAT(e.what(), testing::StartsWith("made-up.gguf: tokenizer.ggml."));
    EXPECT_THAT(e.what(), HasSubstr(part));
  }
}

TEST(TextIndex, FindsWhatWasStored) {
  Random random(1);
  std::vector<std::string> texts;
  for (int i = 0; i < 1000; ++i) texts.push_back(std::to_string(random.next()).substr(0, random.next() % 20));
  const auto text_of = [&](Token id) { return std::string_view(texts[static_cast<std::size_t>(id)]); };
  TextIndex index(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (index.find(texts[i], text_of) < 0) index.insert(texts[i], static_cast<Token>(i));
  }
  for (const std::string& text : texts) EXPECT_EQ(text_of(index.find(text, text_of)), text);
  EXPECT_EQ(index.find("absent", text_of), -1);
  EXPECT_EQ(TextIndex(0).find("", text_of), -1);
}

TEST(Vocab, ListsOfDifferentLengthsAreRefused) {
  auto vocab = TestVocab::all_bytes();
  vocab.types.pop_back();
  expect_refused(vocab, ErrorCode::format, "token_type: 255 entries for 256 tokens");
  vocab = TestVocab::all_bytes();
  vocab.scores.push_back(0);
  expect_refused(vocab, ErrorCode::format, "scores: 257 entries for 256 tokens");
}

TEST(Vocab, BadEntriesAreRefused) {
  auto vocab = TestVocab::all_bytes();
  vocab.types[7] = 9;
  expect_refused(vocab, ErrorCode::format, "type 9 of token 7");
  vocab = TestVocab::all_bytes();
  vocab.scores[8] = std::numeric_limits<float>::quiet_NaN();
  expect_refused(vocab, ErrorCode::format, "score of token 8");
  TestVocab empty;
  expect_refused(empty, ErrorCode::format, "no tokens");
  for (const char* bad : {"<0x1>", "<0xGG>", "0x12", "<0x-1>", ""}) {
    TestVocab bytes;
    bytes.model = "llama";
    bytes.add(bad, TokenType::byte);
    expect_refused(bytes, ErrorCode::format, "expected <0xNN>");
  }
}

TEST(Vocab, IdsOutOfRangeAreRefused) {
  for (const char* key : {"bos", "eos", "eot", "unknown"}) {
    auto vocab = TestVocab::all_bytes();
    const std::string name = std::string("tokenizer.ggml.") + key + "_token_id";
    vocab.extra.set(name, std::uint32_t{256});
    expect_refused(vocab, ErrorCode::format, name + ": token 256, but there are only 256");
  }
}

TEST(Vocab, OtherKindsAreNamed) {
  auto vocab = TestVocab::all_bytes();
  vocab.model = "bert";
  expect_refused(vocab, ErrorCode::unsupported, "model: \"bert\" is not supported (known: gpt2, llama)");
  vocab.model = "gpt2";
  vocab.pre = "tekken";
  expect_refused(vocab, ErrorCode::unsupported, "pre: \"tekken\" is not supported (known: qwen2, ");
}

TEST(Vocab, PreTokenizerOfOlderFilesFollowsFromTheArchitecture) {
  const auto tokens_of_11 = [](std::string_view architecture) {
    auto vocab = TestVocab::all_bytes();
    vocab.pre = "";
    vocab.merge("1", "1");
    vocab.extra.set("general.architecture", architecture);
    return Tokenizer::from(vocab.file()).encode("11").size();
  };
  EXPECT_EQ(tokens_of_11("qwen2"), 2u);  // each digit is a word
  EXPECT_EQ(tokens_of_11("gpt2"), 1u);
}

TEST(Vocab, TypesAndScoresMayBeAbsent) {
  auto vocab = TestVocab::all_bytes();
  vocab.types.clear();
  vocab.scores.clear();
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("a b")), "a b");
  EXPECT_EQ(tokenizer.bos(), -1);
  EXPECT_EQ(tokenizer.eos(), -1);
  EXPECT_FALSE(tokenizer.add_bos());
  EXPECT_FALSE(tokenizer.is_end(-1));
}

TEST(Vocab, FirstOfEqualTokensIsFound) {
  auto vocab = TestVocab::all_bytes();
  vocab.merge("a", "b");
  vocab.add("ab");
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.encode("ab"), std::vector<Token>{256});
  EXPECT_EQ(tokenizer.piece(257), "ab");
}

TEST(Vocab, EmptyTokensAreNeverFound) {
  auto vocab = TestVocab::all_bytes();
  vocab.add("");
  vocab.add("", TokenType::control);
  vocab.add("", TokenType::user_defined);
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.encode("ab").size(), 2u);
  EXPECT_EQ(tokenizer.piece(256), "");
}

TEST(Vocab, OutlivesItsFile) {
  auto vocab = std::make_unique<TestVocab>(TestVocab::all_bytes());
  vocab->merge("a", "b");
  vocab->add("<end>", TokenType::control);
  const auto tokenizer = Tokenizer::from(vocab->file());
  vocab.reset();
  EXPECT_EQ(tokenizer.encode("ab<end>"), (std::vector<Token>{256, 257}));
}

TEST(SpecialTokens, LongestWinsAndFirstPlaceFirst) {
  auto vocab = TestVocab::all_bytes();
  vocab.add("<a>", TokenType::control);       // 256
  vocab.add("<a><b>", TokenType::control);    // 257
  vocab.add("<b>", TokenType::user_defined);  // 258
  vocab.add("<unk>", TokenType::unknown);     // 259
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(tokenizer.encode("<a><a><b><b><unk>"), (std::vector<Token>{256, 257, 258, 259}));
  const auto plain = tokenizer.encode("<a><b>", false);
  EXPECT_EQ(plain.size(), 4u);  // "<", "a", ">" and the user-defined token
  EXPECT_EQ(plain.back(), 258);
  EXPECT_EQ(tokenizer.decode(plain), "<a><b>");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("x<a>y<b>")), "xy<b>");
  EXPECT_EQ(tokenizer.special("<a>"), 256);
  EXPECT_EQ(tokenizer.special("a"), -1);
  EXPECT_TRUE(tokenizer.is_special(258));
  EXPECT_FALSE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(999));
}

TEST(Ends, ByKeyAndByName) {
  auto vocab = TestVocab::all_bytes();
  vocab.add("<|im_end|>", TokenType::control);
  vocab.add("<|endoftext|>", TokenType::normal);  // not a control token: ordinary text
  vocab.add("<stop>", TokenType::control);
  vocab.add("<turn>", TokenType::control);
  vocab.extra.set("tokenizer.ggml.eos_token_id", std::uint32_t{258});
  vocab.extra.set("tokenizer.ggml.eot_token_id", std::uint32_t{259});
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_TRUE(tokenizer.is_end(256));
  EXPECT_FALSE(tokenizer.is_end(257));
  EXPECT_TRUE(tokenizer.is_end(258));
  EXPECT_TRUE(tokenizer.is_end(259));
  EXPECT_EQ(tokenizer.eos(), 258);
}

TEST(Bos, AddedAsTheFileSaysOrThePreTokenizerDoes) {
  const auto adds = [](const std::string& pre, int says) {
    auto vocab = TestVocab::all_bytes();
    vocab.pre = pre;
    vocab.extra.set("tokenizer.ggml.bos_token_id", std::uint32_t{3});
    if (says >= 0) vocab.extra.set("tokenizer.ggml.add_bos_token", says == 1);
    return Tokenizer::from(vocab.file()).add_bos();
  };
  EXPECT_FALSE(adds("qwen2", -1));
  EXPECT_TRUE(adds("qwen2", 1));
  EXPECT_TRUE(adds("llama-bpe", -1));
  EXPECT_FALSE(adds("llama-bpe", 0));
  EXPECT_FALSE(adds("gpt-2", -1));
}

}  // namespace
}  // namespace kvant::tokenizer
