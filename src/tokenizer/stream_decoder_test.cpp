#include <gtest/gtest.h>

#include "base/random.h"
#include "base/utf8.h"
#include "tokenizer/test_data.h"
#include "tokenizer/tokenizer.h"

namespace kvant::tokenizer {
namespace {

using testing_data::TestVocab;

/// Bytes through a decoder whose tokens are the single bytes.
std::vector<std::string> stream(const Tokenizer& tokenizer, std::string_view bytes) {
  StreamDecoder decoder(tokenizer);
  std::vector<std::string> parts;
  for (const char c : bytes) parts.push_back(decoder.push(static_cast<std::uint8_t>(c)));
  parts.push_back(decoder.finish());
  return parts;
}

using Parts = std::vector<std::string>;

TEST(StreamDecoder, WaitsForWholeCharacters) {
  auto vocab = TestVocab::all_bytes();
  const auto tokenizer = Tokenizer::from(vocab.file());
  EXPECT_EQ(stream(tokenizer, "a\xc3\xa4\xf0\x9f\x98\x80z"),
            (Parts{"a", "", "\xc3\xa4", "", "", "", "\xf0\x9f\x98\x80", "z", ""}));
}

TEST(StreamDecoder, ReplacesWhatCannotBecomeValid) {
  auto vocab = TestVocab::all_bytes();
  const auto tokenizer = Tokenizer::from(vocab.file());
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(stream(tokenizer, "\xff"), (Parts{bad, ""}));
  EXPECT_EQ(stream(tokenizer, "\x80z"), (Parts{bad, "z", ""}));
  EXPECT_EQ(stream(tokenizer, "\xf0\x9f\x98z"), (Parts{"", "", "", bad + "z", ""}));  // one for the cut sequence
  EXPECT_EQ(stream(tokenizer, "\xe0\x80"), (Parts{"", bad + bad, ""}));               // overlong: one for each byte
  EXPECT_EQ(stream(tokenizer, "\xf0\x9f\x98"), (Parts{"", "", "", bad}));             // cut at the end
  EXPECT_EQ(stream(tokenizer, "\xc3\xc3\xa4"), (Parts{"", bad, "\xc3\xa4", ""}));
}

TEST(StreamDecoder, PartsAreValidForAnyBytes) {
  auto vocab = TestVocab::all_bytes();
  const auto tokenizer = Tokenizer::from(vocab.file());
  Random random(3);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 12; ++i) bytes += static_cast<char>(random.next() % 3 == 0 ? 'a' : 0x80 + random.next() % 0x80);
    std::string whole;
    for (const std::string& part : stream(tokenizer, bytes)) {
      ASSERT_TRUE(is_valid_utf8(part));
      whole += part;
    }
    if (is_valid_utf8(bytes)) {
      EXPECT_EQ(whole, bytes);
    }
  }
}

TEST(StreamDecoder, DropsTheSpaceBeforeATextOnly) {
  TestVocab vocab;
  vocab.model = "llama";
  vocab.add("<unk>", TokenType::unknown);
  vocab.add("<s>", TokenType::control);
  vocab.add("</s>", TokenType::control);
  vocab.add(
      "\xe2\x96\x81"
      "a");
  const auto tokenizer = Tokenizer::from(vocab.file());
  StreamDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.push(1), "");
  EXPECT_EQ(decoder.push(3), "a");
  EXPECT_EQ(decoder.push(3), " a");
  StreamDecoder continued(tokenizer, false);
  EXPECT_EQ(continued.push(3), " a");
}

}  // namespace
}  // namespace kvant::tokenizer
