#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "engine/log_probabilities.h"
#include "tokenizer/tokenizer.h"

namespace kvant::server {

using tokenizer::Token;

/// A part of an answer: whole UTF-8 characters, and the tokens that they come from where probabilities are wanted.
struct Piece {
  std::string text;
  std::vector<engine::LogProbabilities> tokens;
};

/// Turns the tokens of one answer into text that ends before the first stop string. Text that could be the start of a
/// stop string is held back until it is decided. What comes out in all does not depend on how the text is cut into
/// tokens: of several stop strings the one that is complete first counts, of those that end together the longest.
class Answer {
 public:
  /// Keeps a reference to the tokenizer. text_start: as in StreamDecoder. Empty stop strings are not allowed.
  Answer(const tokenizer::Tokenizer& tokenizer, std::vector<std::string> stops, bool text_start = true);

  /// What may go out after a token. Nothing once stopped().
  Piece push(Token token);
  /// The same, and passes the token's probabilities on with its text.
  Piece push(Token token, engine::LogProbabilities probabilities);
  /// What is left when no token follows.
  Piece finish();
  /// Whether a stop string has been met.
  bool stopped() const noexcept { return stopped_; }

 private:
  struct Waiting {
    std::size_t begin, end;  ///< of its text, in bytes of the answer
    engine::LogProbabilities probabilities;
  };
  /// Takes decoded text in and gives out what is decided; with `last` all of it.
  std::string decide(std::string_view text, bool last);
  /// Probabilities of the tokens whose text is out.
  Piece release(std::string text);

  tokenizer::StreamDecoder decoder_;
  std::vector<std::string> stops_;
  std::string held_;              // may be the start of a stop string
  std::size_t decoded_ = 0;       // bytes that came out of the decoder
  std::size_t out_ = 0;           // bytes given out
  std::vector<Waiting> waiting_;  // tokens whose text is not out yet
  bool stopped_ = false;
};

}  // namespace kvant::server
