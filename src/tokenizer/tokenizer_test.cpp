#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "base/clock.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/utf8.h"
#include "tokenizer/normalize.h"
#include "tokenizer/test_data.h"

namespace kvant::tokenizer {
namespace {

using testing::HasSubstr;
using testing_data::data_file;
using testing_data::model_file;

/// Texts in many scripts.
std::vector<std::filesystem::path> texts() {
  std::vector<std::filesystem::path> files;
  for (const char* name : {"text/wiki.test.raw", "text/korean.txt", "text/tinyshakespeare.txt", "text/emoji-run.txt"}) {
    if (std::filesystem::exists(data_file(name))) files.push_back(data_file(name));
  }
  if (!std::filesystem::exists(data_file("text/udhr"))) return files;
  for (const auto& entry : std::filesystem::directory_iterator(data_file("text/udhr"))) files.push_back(entry.path());
  return files;
}

void expect_throws(ErrorCode code, const std::string& part, const auto& action) {
  try {
    action();
    FAIL() << "expected an error with: " << part;
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    EXPECT_THAT(e.what(), HasSubstr(part));
  }
}

class Qwen2 : public testing::Test {
 protected:
  void SetUp() override {
    KVANT_NEEDS(data_file(kFile));
    static const Tokenizer shared = Tokenizer::from(gguf::File::open(data_file(kFile)));
    tokenizer_ = &shared;
  }
  static constexpr const char* kFile = "vocab/ggml-vocab-qwen2.gguf";
  const Tokenizer* tokenizer_ = nullptr;
};

TEST_F(Qwen2, AllCasesOfTheVocabulary) {
  const auto inputs = data_file(std::string(kFile) + ".inp");
  const auto outputs = data_file(std::string(kFile) + ".out");
  KVANT_NEEDS(inputs);
  KVANT_NEEDS(outputs);
  const std::string text = read_text(inputs.string());
  std::istringstream lines(read_text(outputs.string()));
  constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";
  int cases = 0;
  for (std::size_t at = 0; at <= text.size(); ++cases) {
    const std::size_t end = std::min(text.find(kSeparator, at), text.size());
    std::string line;
    std::getline(lines, line);  // none for the last case, which is empty
    std::istringstream numbers(line);
    const std::vector<Token> expected{std::istream_iterator<Token>(numbers), {}};
    const std::string input = text.substr(at, end - at);
    EXPECT_EQ(tokenizer_->encode(input), expected) << "\"" << input << "\"";
    EXPECT_EQ(tokenizer_->decode(expected), to_nfc(input));
    at = end + (end < text.size() ? kSeparator.size() : 1);
  }
  EXPECT_EQ(cases, 47);
}

TEST_F(Qwen2, VectorsOfTheOriginalTokenizer) {
  const auto path = data_file("reference/qwen2_tokenization_vectors.json");
  KVANT_NEEDS(path);
  const auto json = nlohmann::json::parse(read_text(path.string()));
  auto vectors = json.at("hf_integration");
  vectors.push_back(json.at("llama_cpp_chktxt"));
  ASSERT_EQ(vectors.size(), 4u);
  for (const auto& vector : vectors) {
    const auto text = vector.at("text").get<std::string>();
    EXPECT_EQ(tokenizer_->encode(text), vector.at("ids").get<std::vector<Token>>()) << text;
  }
}

TEST_F(Qwen2, WikiTextHasItsKnownNumberOfTokens) {
  const auto path = data_file("text/wiki.test.raw");
  KVANT_NEEDS(path);
  EXPECT_EQ(tokenizer_->encode(read_text(path.string())).size(), 299078u);
}

TEST_F(Qwen2, DecodingGivesTheNormalizedTextBack) {
  for (const auto& path : texts()) {
    const std::string text = read_text(path.string());
    EXPECT_TRUE(tokenizer_->decode(tokenizer_->encode(text)) == to_nfc(text)) << path;
  }
}

TEST_F(Qwen2, StreamedTextIsTheSameAndAlwaysWhole) {
  for (const auto& path : texts()) {
    const auto ids = tokenizer_->encode(read_text(path.string()));
    StreamDecoder decoder(*tokenizer_);
    std::string text;
    for (const Token id : ids) {
      const std::string part = decoder.push(id);
      ASSERT_TRUE(is_valid_utf8(part)) << path;
      text += part;
    }
    EXPECT_EQ(decoder.finish(), "");
    EXPECT_TRUE(text == tokenizer_->decode(ids)) << path;
  }
}

TEST_F(Qwen2, SpecialTokens) {
  const Token start = tokenizer_->special("<|im_start|>");
  const Token end = tokenizer_->special("<|im_end|>");
  EXPECT_EQ(start, 151644);
  EXPECT_EQ(end, 151645);
  EXPECT_EQ(tokenizer_->special("Hello"), -1);
  const std::string text = "<|im_start|>Hello<|im_end|>";
  const auto ids = tokenizer_->encode(text);
  EXPECT_EQ(ids, (std::vector<Token>{start, 9707, end}));
  EXPECT_EQ(tokenizer_->decode(ids), "Hello");
  EXPECT_EQ(tokenizer_->decode(ids, true), text);
  EXPECT_EQ(tokenizer_->piece(start), "");
  EXPECT_EQ(tokenizer_->piece(start, true), "<|im_start|>");

  const auto plain = tokenizer_->encode(text, false);
  EXPECT_THAT(plain, testing::Each(testing::Lt(151643)));
  EXPECT_EQ(tokenizer_->decode(plain), text);
  EXPECT_EQ(tokenizer_->encode("[PAD151646]", false), std::vector<Token>{151646});  // user-defined
}

TEST_F(Qwen2, EndsAndStart) {
  EXPECT_EQ(tokenizer_->size(), 151936u);
  EXPECT_EQ(tokenizer_->bos(), 151643);
  EXPECT_EQ(tokenizer_->eos(), 151643);
  EXPECT_FALSE(tokenizer_->add_bos());
  EXPECT_FALSE(tokenizer_->space_prefix());
  EXPECT_TRUE(tokenizer_->is_end(151643));
  EXPECT_TRUE(tokenizer_->is_end(151645));
  for (const Token other : {0, 151644, 151646, -1, 1 << 30}) EXPECT_FALSE(tokenizer_->is_end(other)) << other;
}

TEST_F(Qwen2, TextIsNormalizedExceptSpecialTokens) {
  EXPECT_EQ(tokenizer_->encode("A\xcc\x88pfel"), tokenizer_->encode("\xc3\x84pfel"));  // A + U+0308 is U+00C4
  EXPECT_EQ(tokenizer_->encode("<|im_end|>\xcc\x88").front(), 151645);
}

TEST_F(Qwen2, LongRunsTakeNoTime) {
  std::vector<std::string> runs;
  for (const char c : {'a', ' ', '\n', '.', '7'}) runs.emplace_back(std::size_t{1} << 18, c);
  std::string marks;  // accents in the order that normalization turns round
  for (int i = 0; i < 100000; ++i) marks += "\xcc\x81\xcc\x96";
  runs.push_back(marks);
  if (std::filesystem::exists(data_file("text/emoji-run.txt"))) {
    runs.push_back(read_text(data_file("text/emoji-run.txt").string()));
  }
  for (const std::string& run : runs) {
    const Stopwatch watch;
    const auto ids = tokenizer_->encode(run);
    EXPECT_LT(watch.seconds(), 20) << run.substr(0, 4);  // linear work takes 0.1 s, quadratic work minutes
    EXPECT_TRUE(tokenizer_->decode(ids) == to_nfc(run)) << run.substr(0, 4);
  }
}

TEST_F(Qwen2, InvalidInputIsRefused) {
  expect_throws(ErrorCode::invalid_argument, "not valid UTF-8 at byte 3", [&] { tokenizer_->encode("abc\xff"); });
  expect_throws(ErrorCode::invalid_argument, "not valid UTF-8 at byte 2",
                [&] { tokenizer_->encode("\xc3\xa4\xed\xa0\x80"); });
  expect_throws(ErrorCode::invalid_argument, "not valid UTF-8 at byte 1", [&] { tokenizer_->encode("a\xf0\x9f\x98"); });
  expect_throws(ErrorCode::invalid_argument, "token 151936", [&] { tokenizer_->piece(151936); });
  expect_throws(ErrorCode::invalid_argument, "token -1", [&] { tokenizer_->decode(std::vector<Token>{-1}); });
  EXPECT_EQ(tokenizer_->encode(""), std::vector<Token>{});
  EXPECT_EQ(tokenizer_->decode({}), "");
}

TEST_F(Qwen2, ThreadsMayShareIt) {
  const std::string text = "Shared by threads: 12 \xc3\xa4 <|im_end|>\n";
  const auto expected = tokenizer_->encode(text);
  std::array<std::vector<Token>, 4> results;
  {
    std::vector<std::jthread> threads;
    for (auto& result : results) {
      threads.emplace_back([&] {
        for (int i = 0; i < 20; ++i) result = tokenizer_->encode(text);
      });
    }
  }
  EXPECT_THAT(results, testing::Each(expected));
}

TEST_F(Qwen2, ZeroBytesAreText) {
  const std::string text("a\0b\0", 4);
  EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text)), text);
}

TEST(StandIn, RoundTrip) {
  const auto path = model_file("standin-a-q8_0.gguf");
  KVANT_NEEDS(path);
  const auto tokenizer = Tokenizer::from(gguf::File::open(path));
  EXPECT_FALSE(tokenizer.add_bos());
  EXPECT_EQ(tokenizer.special("<|im_end|>"), 4095);
  for (const auto& file : texts()) {
    const std::string text = read_text(file.string());
    EXPECT_TRUE(tokenizer.decode(tokenizer.encode(text)) == to_nfc(text)) << file;
  }
}

class Stories : public testing::Test {
 protected:
  void SetUp() override {
    KVANT_NEEDS(data_file("gguf/stories260K.llama-f32.gguf"));
    tokenizer_ =
        std::make_unique<Tokenizer>(Tokenizer::from(gguf::File::open(data_file("gguf/stories260K.llama-f32.gguf"))));
  }
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(Stories, GreedyTextGivesItsIds) {
  const auto path = data_file("reference/stories260K_greedy_expected.json");
  KVANT_NEEDS(path);
  const auto json = nlohmann::json::parse(read_text(path.string()));
  const auto ids = json.at("greedy_ids").get<std::vector<Token>>();
  const auto text = json.at("text").get<std::string>();
  EXPECT_EQ(tokenizer_->decode(ids), text);
  std::vector<Token> encoded{tokenizer_->bos()};
  for (const Token id : tokenizer_->encode(text)) encoded.push_back(id);
  EXPECT_EQ(encoded, ids);
}

TEST_F(Stories, StartsWithBosAndEndsWithEos) {
  EXPECT_TRUE(tokenizer_->add_bos());
  EXPECT_TRUE(tokenizer_->space_prefix());
  EXPECT_EQ(tokenizer_->bos(), 1);
  EXPECT_EQ(tokenizer_->eos(), 2);
  EXPECT_TRUE(tokenizer_->is_end(2));
  EXPECT_FALSE(tokenizer_->is_end(1));
  EXPECT_EQ(tokenizer_->special("</s>"), 2);
}

TEST_F(Stories, TextsComeBackUnchanged) {
  for (const auto& path : texts()) {
    const std::string text = read_text(path.string());
    const auto ids = tokenizer_->encode(text);
    EXPECT_TRUE(tokenizer_->decode(ids) == text) << path;
    StreamDecoder decoder(*tokenizer_);
    std::string streamed;
    for (const Token id : ids) streamed += decoder.push(id);
    EXPECT_TRUE(streamed + decoder.finish() == text) << path;
  }
}

TEST_F(Stories, SpacesAreKept) {
  for (const std::string text : {"", " ", "  ", " a", "a ", "a  b", "\n", " \n ", "</s> a</s>b", "a<s>"}) {
    EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text), true), text);
    EXPECT_EQ(tokenizer_->decode(tokenizer_->encode(text, false)), text);
  }
}

TEST(LlamaVocabulary, KnownEncodings) {
  const auto path = data_file("gguf/ggml-vocab-llama.v3.gguf");
  KVANT_NEEDS(path);
  const auto tokenizer = Tokenizer::from(gguf::File::open(path));
  // Encodings of Llama 2's tokenizer.
  EXPECT_EQ(tokenizer.encode("Hello world"), (std::vector<Token>{15043, 3186}));
  EXPECT_EQ(tokenizer.encode(" Hello world"), (std::vector<Token>{29871, 15043, 3186}));
  EXPECT_EQ(
      tokenizer.encode("Hello, y'all! How are you \xf0\x9f\x98\x81 ?"),
      (std::vector<Token>{15043, 29892, 343, 29915, 497, 29991, 1128, 526, 366, 29871, 243, 162, 155, 132, 1577}));
}

}  // namespace
}  // namespace kvant::tokenizer
