#include "tokenizer/vocab.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"

namespace kvant::tokenizer {
namespace {

constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kScores = "tokenizer.ggml.scores";

/// Byte of each code point of the byte-level alphabet, -1 for others. Bytes that are printable in Latin-1 stand for
/// themselves, the rest follow from U+0100 on in order (encoder.py of GPT-2).
constexpr std::array<std::int16_t, 324> kByteOfCodePoint = [] {
  std::array<std::int16_t, 324> table{};
  table.fill(-1);
  std::size_t next = 256;
  for (std::int16_t b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
    table[printable ? static_cast<std::size_t>(b) : next++] = b;
  }
  return table;
}();

/// The byte that "<0xNN>" names, or -1.
int byte_named(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || !text.ends_with('>')) return -1;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  return error == std::errc{} && end == text.data() + 5 ? static_cast<int>(value) : -1;
}

}  // namespace

TextIndex::TextIndex(std::size_t count) : slots_(std::bit_ceil(count + count / 2 + 2)), mask_(slots_.size() - 1) {}

std::uint32_t TextIndex::hash_of(std::string_view text) noexcept {
  constexpr std::uint64_t kOdd = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio
  std::uint64_t hash = text.size() * kOdd;
  for (std::size_t at = 0; at < text.size(); at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, text.data() + at, std::min<std::size_t>(8, text.size() - at));
    hash = (std::rotl(hash, 23) ^ word) * kOdd;
  }
  return static_cast<std::uint32_t>(hash >> 32);
}

void TextIndex::insert(std::string_view text, Token id) noexcept {
  const std::uint32_t hash = hash_of(text);
  std::size_t at = hash & mask_;
  while (slots_[at].id >= 0) at = (at + 1) & mask_;
  slots_[at] = {hash, id};
}

bool append_byte_level(std::string_view text, std::string& out) {
  const std::size_t before = out.size();
  for (std::size_t at = 0; at < text.size(); ++at) {
    auto point = static_cast<std::size_t>(static_cast<std::uint8_t>(text[at]));
    if (point >= 0x80) {  // the alphabet ends at U+0143: one or two bytes
      const bool two = (point == 0xc2 || point == 0xc3 || point == 0xc4 || point == 0xc5) && at + 1 < text.size() &&
                       (static_cast<std::uint8_t>(text[at + 1]) & 0xc0) == 0x80;
      point = two ? (point & 0x1f) << 6 | (static_cast<std::uint8_t>(text[++at]) & 0x3f) : kByteOfCodePoint.size();
    }
    if (point >= kByteOfCodePoint.size() || kByteOfCodePoint[point] < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(kByteOfCodePoint[point]);
  }
  return true;
}

void append_with_spaces(std::string_view text, std::string& out) {
  constexpr std::string_view kMark = "\xe2\x96\x81";
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t mark = text.find(kMark, at);
    out += text.substr(at, mark - at);
    if (mark == std::string_view::npos) return;
    out += ' ';
    at = mark + kMark.size();
  }
}

Vocab::Vocab(const gguf::File& file, Spelling spelling) : index_(0) {
  const auto texts = file.texts(kTokens);
  KVANT_CHECK(!texts.empty(), ErrorCode::format, "{}: {}: no tokens", file.path(), kTokens);
  KVANT_CHECK(texts.size() <= std::numeric_limits<Token>::max(), ErrorCode::format, "{}: {}: {} tokens, at most {}",
              file.path(), kTokens, texts.size(), std::numeric_limits<Token>::max());
  read_types(file, texts.size());
  read_scores(file, texts.size());

  std::size_t total = 0;
  for (const auto text : texts) total += text.size();  // texts lie in the file: no overflow
  KVANT_CHECK(total <= std::numeric_limits<std::uint32_t>::max(), ErrorCode::format, "{}: {}: {} bytes, at most 2^32",
              file.path(), kTokens, total);
  arena_.reserve(total);
  starts_.reserve(texts.size() + 1);
  for (std::size_t i = 0; i < texts.size(); ++i) add_text(file, texts[i], spelling, types_[i]);
  starts_.push_back(static_cast<std::uint32_t>(arena_.size()));

  byte_tokens_.fill(-1);
  index_ = TextIndex(texts.size());
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto id = static_cast<Token>(i);
    const std::string_view own = bytes(id);
    if (own.empty() || is_special(id)) continue;
    const bool single = spelling == Spelling::byte_level ? own.size() == 1 : types_[i] == TokenType::byte;
    Token& byte = byte_tokens_[static_cast<std::uint8_t>(own[0])];
    if (single && byte < 0) byte = id;
    if (spelling == Spelling::sentencepiece && types_[i] == TokenType::byte) continue;
    longest_ = std::max(longest_, own.size());
    if (find(own) < 0) index_.insert(own, id);
  }
}

void Vocab::read_types(const gguf::File& file, std::size_t count) {
  types_.assign(count, TokenType::normal);
  if (file.find(kTypes) == nullptr) return;
  const auto types = file.integers(kTypes);
  KVANT_CHECK(types.size() == count, ErrorCode::format, "{}: {}: {} entries for {} tokens", file.path(), kTypes,
              types.size(), count);
  for (std::size_t i = 0; i < count; ++i) {
    KVANT_CHECK(types[i] >= 0 && types[i] <= 6, ErrorCode::format, "{}: {}: type {} of token {}, expected 1 to 6",
                file.path(), kTypes, types[i], i);
    if (types[i] != 0) types_[i] = static_cast<TokenType>(types[i]);  // 0 is "undefined"
  }
}

void Vocab::read_scores(const gguf::File& file, std::size_t count) {
  if (file.find(kScores) == nullptr) return;
  scores_ = file.floats(kScores);
  KVANT_CHECK(scores_.size() == count, ErrorCode::format, "{}: {}: {} entries for {} tokens", file.path(), kScores,
              scores_.size(), count);
  const auto nan = std::find_if(scores_.begin(), scores_.end(), [](float s) { return std::isnan(s); });
  KVANT_CHECK(nan == scores_.end(), ErrorCode::format, "{}: {}: score of token {} is not a number", file.path(),
              kScores, nan - scores_.begin());
}

void Vocab::add_text(const gguf::File& file, std::string_view text, Spelling spelling, TokenType type) {
  starts_.push_back(static_cast<std::uint32_t>(arena_.size()));
  const bool named = type == TokenType::control || type == TokenType::user_defined || type == TokenType::unknown;
  if (named) {
    arena_ += text;
  } else if (spelling == Spelling::byte_level) {
    if (!append_byte_level(text, arena_)) arena_ += text;  // added tokens that a converter left as plain text
  } else if (type == TokenType::byte) {
    const int byte = byte_named(text);
    KVANT_CHECK(byte >= 0, ErrorCode::format, "{}: {}: byte token \"{}\", expected <0xNN>", file.path(), kTokens,
                printable(text));
    arena_ += static_cast<char>(byte);
  } else {
    append_with_spaces(text, arena_);
  }
}

}  // namespace kvant::tokenizer
