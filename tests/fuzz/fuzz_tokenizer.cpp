#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/utf8.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/normalize.h"
#include "tokenizer/test_vocab.h"
#include "tokenizer/tokenizer.h"

// Texts, token ids, vocabularies and chat templates of any bytes. The first byte says what the others are. Anything but
// the properties below or a kvant::Error is a finding.
namespace kvant::tokenizer {
namespace {

using testing_data::TestVocab;

void require(bool condition) {
  if (!condition) std::abort();
}

Tokenizer byte_level() {
  auto vocab = TestVocab::all_bytes();
  for (const char* left : {"a", "b", "1", "\xc4\xa0"}) {  // U+0120 spells a space
    for (const char* right : {"a", "b", "1", "\xc4\xa0"}) vocab.merge(left, right);
  }
  vocab.merge("aa", "ab");
  vocab.merge(
      "\xc4\xa0"
      "a",
      "ba");
  vocab.add("<|im_end|>", TokenType::control);
  return Tokenizer::from(vocab.file());
}

Tokenizer sentencepiece() {
  TestVocab vocab;
  vocab.model = "llama";
  vocab.add("<unk>", TokenType::unknown);
  vocab.add("</s>", TokenType::control);
  for (unsigned b = 0; b < 256; ++b) vocab.add(fmt::format("<0x{:02X}>", b), TokenType::byte);
  const std::string mark = "\xe2\x96\x81";
  float score = 0;
  for (const std::string& text : {mark, mark + mark, mark + "a", std::string("ab"), std::string("ba"), mark + "aba"}) {
    vocab.add(text, TokenType::normal, score--);
  }
  return Tokenizer::from(vocab.file());
}

std::string streamed(const Tokenizer& tokenizer, std::span<const Token> ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const Token id : ids) {
    const std::string part = decoder.push(id);
    require(is_valid_utf8(part));
    text += part;
  }
  return text + decoder.finish();
}

/// What text must come back as `expected` from.
void round_trip(const Tokenizer& tokenizer, std::string_view text, std::string_view expected) {
  const auto plain = tokenizer.encode(text, false);
  require(tokenizer.decode(plain) == expected);
  require(streamed(tokenizer, plain) == expected);
  const auto ids = tokenizer.encode(text, true);
  require(streamed(tokenizer, ids) == tokenizer.decode(ids));
}

void encode_text(std::string_view text) {
  static const Tokenizer bpe = byte_level();
  static const Tokenizer pieces = sentencepiece();
  if (!is_valid_utf8(text)) {
    for (const Tokenizer* tokenizer : {&bpe, &pieces}) {
      try {
        tokenizer->encode(text);
        std::abort();
      } catch (const Error& e) {
        require(e.code() == ErrorCode::invalid_argument);
      }
    }
    return;
  }
  round_trip(bpe, text, to_nfc(text));
  std::string with_spaces;
  append_with_spaces(text, with_spaces);
  round_trip(pieces, text, with_spaces);
}

void decode_ids(std::span<const std::uint8_t> bytes) {
  static const Tokenizer bpe = byte_level();
  std::vector<Token> ids;
  for (std::size_t i = 0; i + 1 < bytes.size(); i += 2) {
    ids.push_back(static_cast<Token>((bytes[i] + 256u * bytes[i + 1]) % bpe.size()));
  }
  const std::string text = bpe.decode(ids);
  if (is_valid_utf8(text)) require(streamed(bpe, ids) == text);
}

void load(std::span<const std::byte> bytes) {
  const auto file = gguf::File::parse(bytes, "fuzz.gguf");
  const auto tokenizer = Tokenizer::from(file);
  const auto ids = tokenizer.encode("Hello <|im_end|>\n\xc3\xa4  123 </s>");
  tokenizer.decode(ids, true);
  streamed(tokenizer, ids);
}

void render(std::string_view source) {
  auto vocab = TestVocab::all_bytes();
  vocab.extra.set("tokenizer.chat_template", source);
  const auto chat = ChatTemplate::from(vocab.file());
  const std::vector<Message> messages{{"system", "s"}, {"user", "u"}, {"assistant", "a"}, {"user", "v"}};
  require(!chat.render(messages, true).empty());
  chat.render(std::span(messages).subspan(1), false);
}

}  // namespace
}  // namespace kvant::tokenizer

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::span<const std::uint8_t> bytes(data + 1, size - 1);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  try {
    switch (data[0] % 4) {
      case 0:
        kvant::tokenizer::encode_text(text);
        break;
      case 1:
        kvant::tokenizer::decode_ids(bytes);
        break;
      case 2:
        kvant::tokenizer::load(std::as_bytes(bytes));
        break;
      default:
        kvant::tokenizer::render(text);
    }
  } catch (const kvant::Error&) {
  }
  return 0;
}
