#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "gguf/reader.h"
#include "tokenizer/pretokenize.h"
#include "tokenizer/text_encoder.h"
#include "tokenizer/vocab.h"

namespace kvant::tokenizer {

/// The merges of byte-level BPE: a hash table from pairs of ids to their rank and the id they become.
class MergeTable {
 public:
  /// Reads tokenizer.ggml.merges. Throws format on an entry that is not "LEFT RIGHT" in the byte-level alphabet.
  /// Entries whose parts or result are no tokens are left out; of equal ones the first counts.
  MergeTable(const gguf::File& file, const Vocab& vocab);

  struct Merge {
    std::uint32_t rank;  ///< lower merges first
    Token token;         ///< what the pair becomes, -1 where the pair does not merge
  };
  Merge find(Token left, Token right) const noexcept { return slots_[slot_of(left, right)].merge; }

 private:
  struct Slot {
    Token left = -1, right = -1;
    Merge merge{0, -1};
  };
  /// The slot that holds the pair, or the free one where it belongs.
  std::size_t slot_of(Token left, Token right) const noexcept;
  std::vector<Slot> slots_;
  std::size_t mask_;
};

/// Byte-level byte-pair encoding as GPT-2, Qwen2 and Llama 3 use it: a word starts as one token per byte, and the pair
/// of the lowest rank, leftmost first, is merged until none is left. O(n log n) in the length of a word.
class Bpe : public TextEncoder {
 public:
  /// Keeps a reference to vocab. unknown: id for bytes the vocabulary lacks, or -1.
  Bpe(const gguf::File& file, const Vocab& vocab, const PreTokenizer& pre, Token unknown);
  /// Throws invalid_argument when a byte has no token and there is no unknown token.
  void encode(std::string_view text, std::vector<Token>& out) const override;

 private:
  struct Scratch;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<Token>& out) const;

  const Vocab* vocab_;
  const PreTokenizer* pre_;
  WordSplitter splitter_;
  MergeTable merges_;
  Token unknown_;
};

}  // namespace kvant::tokenizer
