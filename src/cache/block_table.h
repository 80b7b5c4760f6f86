#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/batch.h"

namespace kvant::cache {

/// Which slots of a pool hold the blocks of each sequence. A block is 64 tokens of all layers, KV heads, K and V; a
/// slot has room for one. Sequences that share a prefix share its blocks: a slot is free when no sequence has it, and
/// is never written while more than one has.
class BlockTable {
 public:
  /// slots             of the pool
  /// sequence_blocks   the most that a sequence may have
  BlockTable(std::size_t slots, std::size_t sequences, std::size_t sequence_blocks);

  std::size_t slots() const noexcept { return references_.size(); }
  std::size_t free_slots() const noexcept { return free_count_; }
  /// Blocks that a sequence has.
  std::size_t blocks(std::size_t sequence) const noexcept { return blocks_[sequence]; }
  /// Where a block of a sequence lies.
  std::size_t slot(std::size_t sequence, std::size_t block) const noexcept {
    return slots_[sequence * sequence_blocks_ + block];
  }
  std::size_t bytes() const noexcept;

  /// Free slots that grow() would take.
  std::size_t needed(std::span<const Segment> segments) const noexcept;
  struct Copy {
    std::size_t from, to;  ///< slots
  };
  /// Gives each segment's sequence the blocks for its new tokens, and one of its own for a partly filled one that
  /// others have too: what is to be copied. Throws out_of_memory, naming needed and free blocks; then nothing changed.
  std::vector<Copy> grow(std::span<const Segment> segments);
  /// Gives back the blocks of a sequence from the `blocks`-th on.
  void truncate(std::size_t sequence, std::size_t blocks) noexcept;
  /// `to`, another sequence, gets the first `blocks` of `from` instead of what it has.
  void share(std::size_t from, std::size_t to, std::size_t blocks) noexcept;

 private:
  std::uint32_t take() noexcept;
  void give_back(std::uint32_t slot) noexcept;
  bool shared(std::size_t sequence, std::size_t block) const noexcept {
    return block < blocks_[sequence] && references_[slot(sequence, block)] > 1;
  }

  std::size_t sequence_blocks_;
  std::vector<std::uint32_t> slots_;       ///< [sequences][sequence_blocks]
  std::vector<std::size_t> blocks_;        ///< [sequences]
  std::vector<std::uint32_t> references_;  ///< [slots] sequences that have it
  std::vector<std::uint32_t> free_;        ///< [slots], the first free_count_ of them; the last is taken next
  std::size_t free_count_;
};

/// Blocks that hold so many tokens.
std::size_t blocks_of(std::size_t tokens) noexcept;

}  // namespace kvant::cache
