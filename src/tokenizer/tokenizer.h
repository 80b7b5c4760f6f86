#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/reader.h"

namespace kvant::tokenizer {

using Token = std::int32_t;

/// Text to token ids and back, from the vocabulary in a GGUF file: Qwen2 byte-level BPE (tokenizer.ggml.model "gpt2",
/// pre "qwen2" or "llama-bpe"-like) and SentencePiece ("llama"). Immutable after creation; safe from several threads.
class Tokenizer {
 public:
  /// Copies what it needs out of `file`. Throws format or unsupported ("FILE: tokenizer ...") on a vocabulary that is
  /// broken or of another kind.
  static Tokenizer from(const gguf::File& file);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  /// Ids of `text`. Special tokens written out in the text ("<|im_end|>") become their ids when parse_special is set
  /// and stay plain text otherwise; tokens of type "user-defined" always become their ids. No BOS is added. Throws
  /// invalid_argument naming the byte offset of invalid UTF-8, or a byte that the vocabulary has no token for.
  std::vector<Token> encode(std::string_view text, bool parse_special = true) const;
  /// The same with BOS in front, where the vocabulary asks for it (add_bos()) and the text does not start with it.
  std::vector<Token> encode_prompt(std::string_view text, bool parse_special = true) const;
  /// Text of the ids; control tokens are left out unless `special` is set. May hold invalid UTF-8 where ids do. The
  /// spaces that encode() adds (space_prefix()) are taken away again. Throws as piece().
  std::string decode(std::span<const Token> tokens, bool special = false) const;
  /// The bytes one token stands for (control tokens: nothing unless `special`). Throws invalid_argument on an id that
  /// is not in the vocabulary.
  std::string_view piece(Token token, bool special = false) const;

  std::size_t size() const noexcept;
  Token bos() const noexcept;     ///< -1 where there is none
  Token eos() const noexcept;     ///< -1 where there is none
  bool add_bos() const noexcept;  ///< whether a text starts with BOS
  /// Whether encode() puts a space before a text and after each special token (SentencePiece, as a rule).
  bool space_prefix() const noexcept;
  /// Whether the token is recognised by its name: control, unknown and user-defined tokens.
  bool is_special(Token token) const noexcept;
  /// Whether generation ends with this token (EOS, EOT, <|im_end|>, <|endoftext|>, ...).
  bool is_end(Token token) const noexcept;
  /// Id of a special token by its text, or -1.
  Token special(std::string_view text) const noexcept;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Turns a stream of tokens into text that never ends inside a UTF-8 character. Keeps a reference to the tokenizer.
class StreamDecoder {
 public:
  /// text_start: whether the first token begins a text, which then loses the space that encode() put before it. Pass
  /// false where the tokens continue a text that was printed before.
  explicit StreamDecoder(const Tokenizer& tokenizer, bool text_start = true)
      : tokenizer_(&tokenizer), first_(text_start) {}
  /// Text that is complete after this token (may be empty). Bytes that cannot become valid UTF-8 come out as U+FFFD.
  std::string push(Token token);
  /// What is left at the end; an incomplete character comes out as U+FFFD.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;  // the start of a character
  bool first_;           // at the start or after a special token
};

}  // namespace kvant::tokenizer
