#include "tokenizer/sentencepiece.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "base/error.h"
#include "base/utf8.h"
#include "tokenizer/word_cache.h"

namespace kvant::tokenizer {
namespace {

/// A stretch of the text that is not cut any more; the stretches form a list through their indices.
struct Symbol {
  std::string_view text;  // empty once it was merged into its left neighbour
  std::int32_t previous, next;
};

/// A merge that may be done: of the symbol at `left` with its successor, as long as they still make up `text`.
struct Candidate {
  float score;
  std::int32_t left;
  std::string_view text;
  bool operator<(const Candidate& other) const noexcept {
    return score != other.score ? score < other.score : left > other.left;
  }
};

/// One word at a time on its way from characters to tokens.
class Merging {
 public:
  explicit Merging(const Vocab& vocab) : vocab_(vocab) {}

  /// Merges the characters of `text`, which is not empty, as far as they go.
  void run(std::string_view text) {
    symbols_.clear();
    candidates_.clear();
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t length = utf8_sequence_length(text.substr(at));
      const auto i = static_cast<std::int32_t>(symbols_.size());
      symbols_.push_back({text.substr(at, length), i - 1, i + 1});
      at += length;
    }
    symbols_.back().next = -1;
    for (std::int32_t i = 0; symbol(i).next >= 0; ++i) push(i, i + 1);
    while (!candidates_.empty()) {
      std::pop_heap(candidates_.begin(), candidates_.end());
      const Candidate best = candidates_.back();
      candidates_.pop_back();
      Symbol& left = symbol(best.left);
      if (left.text.empty() || left.next < 0) continue;
      Symbol& right = symbol(left.next);
      if (left.text.size() + right.text.size() != best.text.size()) continue;
      left.text = best.text;
      left.next = right.next;
      right.text = {};
      if (left.next >= 0) symbol(left.next).previous = best.left;
      push(left.previous, best.left);
      push(best.left, left.next);
    }
  }

  /// Calls take(piece) for the pieces that run() arrived at.
  template <class Take>
  void for_each(const Take& take) {
    for (std::int32_t i = 0; i >= 0; i = symbol(i).next) take(symbol(i).text);
  }

 private:
  Symbol& symbol(std::int32_t i) { return symbols_[static_cast<std::size_t>(i)]; }

  void push(std::int32_t left, std::int32_t right) {
    if (left < 0 || right < 0) return;
    const std::string_view a = symbol(left).text;
    const std::string_view joined(a.data(), a.size() + symbol(right).text.size());
    const Token token = vocab_.find(joined);
    if (token < 0) return;
    candidates_.push_back({vocab_.score(token), left, joined});
    std::push_heap(candidates_.begin(), candidates_.end());
  }

  const Vocab& vocab_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> candidates_;  // a heap, best on top
};

}  // namespace

SentencePiece::SentencePiece(const Vocab& vocab, bool space_prefix, Token unknown)
    : vocab_(&vocab), space_prefix_(space_prefix), cuts_at_spaces_(true), unknown_(unknown) {
  for (std::size_t i = 0; i < vocab.size(); ++i) {
    const auto id = static_cast<Token>(i);
    if (vocab.is_special(id)) continue;
    const std::string_view text = vocab.bytes(id);
    const std::size_t letter = text.find_first_not_of(' ');
    if (text.find(' ', letter) != std::string_view::npos) cuts_at_spaces_ = false;
  }
}

void SentencePiece::encode(std::string_view text, std::vector<Token>& out) const {
  // The vocabulary keeps its texts with spaces in place of U+2581, so text needs no such mark either.
  std::string prepared = space_prefix_ ? " " : "";
  append_with_spaces(text, prepared);
  if (prepared.empty()) return;
  KVANT_CHECK(prepared.size() < std::size_t{1} << 31, ErrorCode::invalid_argument,
              "a text of {} bytes, at most 2^31 - 1", prepared.size());
  const auto append_piece = [&](std::string_view piece) {
    if (const Token token = vocab_->find(piece); token >= 0) return out.push_back(token);
    for (const char c : piece) {
      const auto byte = static_cast<std::uint8_t>(c);
      const Token token = vocab_->byte_token(byte) >= 0 ? vocab_->byte_token(byte) : unknown_;
      KVANT_CHECK(token >= 0, ErrorCode::invalid_argument, "the vocabulary has no token for byte 0x{:02x}", byte);
      out.push_back(token);
    }
  };
  Merging merging(*vocab_);
  WordCache cache(prepared.size());
  for (std::string_view rest = prepared; !rest.empty();) {
    const std::size_t letter = rest.find_first_not_of(' ');
    const std::size_t end = cuts_at_spaces_ ? rest.find(' ', letter) : std::string_view::npos;
    const std::string_view word = rest.substr(0, end);
    cache.append(word, out, [&] {
      merging.run(word);
      merging.for_each(append_piece);
    });
    rest.remove_prefix(word.size());
  }
}

}  // namespace kvant::tokenizer
