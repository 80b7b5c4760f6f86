#include "tokenizer/bpe.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <string>

#include "base/error.h"
#include "tokenizer/normalize.h"
#include "tokenizer/word_cache.h"

namespace kvant::tokenizer {
namespace {

constexpr std::string_view kMerges = "tokenizer.ggml.merges";

/// A part of a word that is one token so far; the parts form a list through their indices.
struct Symbol {
  Token token;  // -1 once it was merged into its left neighbour
  std::int32_t previous, next;
};

/// A merge that may be done: of the symbol at `left` with its successor, as long as they are still these tokens.
struct Candidate {
  std::uint32_t rank;
  std::int32_t left;
  Token left_token, right_token, token;
  bool operator>(const Candidate& other) const noexcept {
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

}  // namespace

MergeTable::MergeTable(const gguf::File& file, const Vocab& vocab) {
  const auto entries = file.texts(kMerges);
  slots_.resize(std::bit_ceil(entries.size() + entries.size() / 2 + 2));
  mask_ = slots_.size() - 1;
  std::string merged;
  for (std::size_t rank = 0; rank < entries.size(); ++rank) {
    const std::string_view entry = entries[rank];
    const std::size_t space = entry.find(' ');
    merged.clear();
    bool good = space != std::string_view::npos && space > 0 && space + 1 < entry.size();
    good = good && append_byte_level(entry.substr(0, space), merged);
    const std::size_t left_size = merged.size();
    good = good && append_byte_level(entry.substr(space + 1), merged);
    KVANT_CHECK(good, ErrorCode::format, "{}: {}: entry {} is \"{}\", expected two byte-level texts and a space",
                file.path(), kMerges, rank, printable(entry));

    const Token left = vocab.find(std::string_view(merged).substr(0, left_size));
    const Token right = vocab.find(std::string_view(merged).substr(left_size));
    const Token token = vocab.find(merged);
    if (left < 0 || right < 0 || token < 0) continue;
    Slot& slot = slots_[slot_of(left, right)];
    if (slot.left < 0) slot = {left, right, {static_cast<std::uint32_t>(rank), token}};
  }
}

std::size_t MergeTable::slot_of(Token left, Token right) const noexcept {
  const std::uint64_t key = std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
  std::size_t at = static_cast<std::size_t>(key * 0x9e3779b97f4a7c15 >> 32) & mask_;  // 2^64 / golden ratio
  while (slots_[at].left >= 0 && (slots_[at].left != left || slots_[at].right != right)) at = (at + 1) & mask_;
  return at;
}

/// Memory that is used again for each word of a text.
struct Bpe::Scratch {
  void push(const MergeTable& merges, std::int32_t left, std::int32_t right) {
    if (left < 0 || right < 0) return;
    const Token a = symbols[static_cast<std::size_t>(left)].token;
    const Token b = symbols[static_cast<std::size_t>(right)].token;
    const auto merge = merges.find(a, b);
    if (merge.token < 0) return;
    candidates.push_back({merge.rank, left, a, b, merge.token});
    std::push_heap(candidates.begin(), candidates.end(), std::greater<>());
  }

  std::vector<Symbol> symbols;
  std::vector<Candidate> candidates;  // a heap, best on top
};

Bpe::Bpe(const gguf::File& file, const Vocab& vocab, const PreTokenizer& pre, Token unknown)
    : vocab_(&vocab), pre_(&pre), splitter_(pre.pattern), merges_(file, vocab), unknown_(unknown) {}

void Bpe::encode(std::string_view text, std::vector<Token>& out) const {
  const std::string normal = pre_->nfc ? to_nfc(text) : std::string();
  if (pre_->nfc) text = normal;
  Scratch scratch;
  WordCache cache(text.size());
  WordSplitter::Words words(splitter_, text);
  for (auto word = words.next(); !word.empty(); word = words.next()) {
    cache.append(word, out, [&] { encode_word(word, scratch, out); });
  }
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<Token>& out) const {
  if (pre_->whole_words) {
    if (const Token token = vocab_->find(word); token >= 0) return out.push_back(token);
  }
  KVANT_CHECK(word.size() < std::size_t{1} << 31, ErrorCode::invalid_argument, "a word of {} bytes, at most 2^31 - 1",
              word.size());
  const auto count = static_cast<std::int32_t>(word.size());
  auto& symbols = scratch.symbols;
  symbols.clear();
  for (std::int32_t i = 0; i < count; ++i) {
    const auto byte = static_cast<std::uint8_t>(word[static_cast<std::size_t>(i)]);
    Token token = vocab_->byte_token(byte);
    if (token < 0) token = unknown_;
    KVANT_CHECK(token >= 0, ErrorCode::invalid_argument, "the vocabulary has no token for byte 0x{:02x}", byte);
    symbols.push_back({token, i - 1, i + 1 < count ? i + 1 : -1});
  }

  scratch.candidates.clear();
  for (std::int32_t i = 0; i + 1 < count; ++i) scratch.push(merges_, i, i + 1);
  while (!scratch.candidates.empty()) {
    std::pop_heap(scratch.candidates.begin(), scratch.candidates.end(), std::greater<>());
    const Candidate best = scratch.candidates.back();
    scratch.candidates.pop_back();
    Symbol& left = symbols[static_cast<std::size_t>(best.left)];
    if (left.token != best.left_token || left.next < 0) continue;
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    if (right.token != best.right_token) continue;
    left.token = best.token;
    left.next = right.next;
    right.token = -1;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = best.left;
    scratch.push(merges_, left.previous, best.left);
    scratch.push(merges_, best.left, left.next);
  }
  for (std::int32_t i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) {
    out.push_back(symbols[static_cast<std::size_t>(i)].token);
  }
}

}  // namespace kvant::tokenizer
