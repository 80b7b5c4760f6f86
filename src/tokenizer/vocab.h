#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/reader.h"
#include "tokenizer/tokenizer.h"

namespace kvant::tokenizer {

/// What a token is for, with the numbers of tokenizer.ggml.token_type.
enum class TokenType : std::uint8_t { normal = 1, unknown, control, user_defined, unused, byte };

/// How a file writes the text of its tokens.
enum class Spelling {
  byte_level,     ///< one printable character per byte (GPT-2's table)
  sentencepiece,  ///< UTF-8 with U+2581 for a space, bytes as <0xNN>
};

/// Ids by text: a hash table with open addressing over texts that the owner keeps.
class TextIndex {
 public:
  /// Makes room for `count` texts.
  explicit TextIndex(std::size_t count);
  /// The id stored for an equal text, or -1. text_of(id) gives the text an id was stored for.
  template <class TextOf>
  Token find(std::string_view text, const TextOf& text_of) const noexcept {
    const std::uint32_t hash = hash_of(text);
    for (std::size_t at = hash & mask_;; at = (at + 1) & mask_) {
      const Slot& slot = slots_[at];
      if (slot.id < 0 || (slot.hash == hash && text_of(slot.id) == text)) return slot.id;
    }
  }
  /// Stores a text that find() does not know yet. At most `count` times.
  void insert(std::string_view text, Token id) noexcept;

 private:
  struct Slot {
    std::uint32_t hash = 0;
    Token id = -1;
  };
  static std::uint32_t hash_of(std::string_view text) noexcept;
  std::vector<Slot> slots_;
  std::size_t mask_;
};

/// The tokens of a file: the bytes each stands for, its type and score, and the way back from bytes to ids.
class Vocab {
 public:
  /// Copies everything out of `file`. Throws format on lists of different lengths, unknown types and NaN scores.
  Vocab(const gguf::File& file, Spelling spelling);

  std::size_t size() const noexcept { return types_.size(); }
  bool contains(Token token) const noexcept { return token >= 0 && static_cast<std::size_t>(token) < size(); }
  /// Bytes a token stands for; of control and unknown tokens their name.
  std::string_view bytes(Token token) const noexcept {
    const auto i = static_cast<std::size_t>(token);
    return std::string_view(arena_).substr(starts_[i], starts_[i + 1] - starts_[i]);
  }
  TokenType type(Token token) const noexcept { return types_[static_cast<std::size_t>(token)]; }
  /// 0 where the file has no scores.
  float score(Token token) const noexcept { return scores_.empty() ? 0 : scores_[static_cast<std::size_t>(token)]; }
  /// Whether the token is recognised by its name in the text rather than put together from characters.
  bool is_special(Token token) const noexcept {
    const TokenType t = type(token);
    return t == TokenType::control || t == TokenType::user_defined || t == TokenType::unknown;
  }

  /// Id of the token that is not special and stands for exactly these bytes, or -1. The first one of equal tokens.
  Token find(std::string_view bytes) const noexcept {
    if (bytes.size() > longest_) return -1;
    return index_.find(bytes, [this](Token id) { return this->bytes(id); });
  }
  /// Id of the token for a single byte that no other token covers, or -1.
  Token byte_token(std::uint8_t byte) const noexcept { return byte_tokens_[byte]; }

 private:
  void read_types(const gguf::File& file, std::size_t count);
  void read_scores(const gguf::File& file, std::size_t count);
  void add_text(const gguf::File& file, std::string_view text, Spelling spelling, TokenType type);

  std::string arena_;                  // the bytes of all tokens, one after the other
  std::vector<std::uint32_t> starts_;  // [size + 1] offsets into arena_
  std::vector<TokenType> types_;
  std::vector<float> scores_;
  std::array<Token, 256> byte_tokens_;
  std::size_t longest_ = 0;
  TextIndex index_;
};

/// Appends the bytes that `text` spells in GPT-2's byte-level alphabet. False, and nothing appended, when a character
/// is not of that alphabet.
bool append_byte_level(std::string_view text, std::string& out);
/// Appends `text` with spaces in place of U+2581, which SentencePiece writes for them.
void append_with_spaces(std::string_view text, std::string& out);

}  // namespace kvant::tokenizer
