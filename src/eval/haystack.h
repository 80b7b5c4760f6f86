#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "tokenizer/tokenizer.h"

namespace kvant::eval {

/// Something that is hidden in a text.
struct Needle {
  std::vector<tokenizer::Token> tokens;
  double depth = 0;  ///< where: 0 at the start of the text, 1 at its end
};

/// What may come between two tokens of a text, each level including those before it: nothing; what leaves characters,
/// words, sentences whole.
enum class Cut : std::uint8_t { none, character, word, sentence };

/// A long text of which prompts are made. Holds five bytes for each of its tokens.
class Haystack {
 public:
  /// `name` is what errors call the text; `tokenizer` must outlive this object. Throws as Tokenizer::encode.
  Haystack(const tokenizer::Tokenizer& tokenizer, std::string_view text, std::string name);

  std::span<const tokenizer::Token> tokens() const noexcept { return tokens_; }
  /// What may be put before each token, and at the end: tokens().size() + 1. A sentence ends with a full stop, an
  /// exclamation or question mark (also those of Chinese, Arabic and Devanagari), after which quotes may close, or with
  /// a line. A word ends where white space is.
  std::span<const Cut> cuts() const noexcept { return cuts_; }

  /// Tokens of a text that stands in the middle of another: after a space, unless it begins with a line end.
  std::vector<tokenizer::Token> encode_inside(std::string_view text) const;

  /// A prompt of exactly `length` tokens: BOS where the vocabulary adds one; an excerpt of the text that is drawn,
  /// from the start of a sentence to the end of one where it has such (else of words, else of characters); the
  /// question. A needle of depth d is put into the excerpt of n tokens at its place nearest to d n where a sentence
  /// ends; where none does within kReach tokens, a word; else a character. Needles at the same place keep their order.
  /// Throws invalid_argument, naming both counts, when the text is too short or `length` leaves no room for it.
  std::vector<tokenizer::Token> prompt(std::size_t length, std::span<const Needle> needles,
                                       std::span<const tokenizer::Token> question, Random& random) const;
  static constexpr std::size_t kReach = 64;

 private:
  /// Where an excerpt of `length` tokens starts.
  std::size_t draw_excerpt(std::size_t length, Random& random) const;
  /// Where in the excerpt [first, first + length) something of this depth is put, counted from its start.
  std::size_t place(std::size_t first, std::size_t length, double depth) const;

  const tokenizer::Tokenizer& tokenizer_;
  std::string name_;
  std::vector<tokenizer::Token> tokens_;
  std::vector<Cut> cuts_;
};

}  // namespace kvant::eval
