#include "cache/block_table.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "cache/page.h"

namespace kvant::cache {

std::size_t blocks_of(std::size_t tokens) noexcept { return tokens / kPageTokens + (tokens % kPageTokens != 0); }

BlockTable::BlockTable(std::size_t slots, std::size_t sequences, std::size_t sequence_blocks)
    : sequence_blocks_(sequence_blocks),
      slots_(sequences * sequence_blocks),
      blocks_(sequences),
      references_(slots),
      free_(slots),
      free_count_(slots) {
  // The first slot comes first: a sequence that is alone has its blocks side by side.
  std::iota(free_.rbegin(), free_.rend(), std::uint32_t{0});
}

std::size_t BlockTable::bytes() const noexcept {
  return (slots_.size() + references_.size() + free_.size()) * sizeof(std::uint32_t) +
         blocks_.size() * sizeof(std::size_t);
}

/// A segment writes into no block that its sequence has but the one of its first position: truncation keeps none behind
/// it, and in a layer that has fallen behind the others they are its own.
std::size_t BlockTable::needed(std::span<const Segment> segments) const noexcept {
  std::size_t count = 0;
  for (const Segment& s : segments) {
    const auto sequence = static_cast<std::size_t>(s.sequence);
    const std::size_t end = blocks_of(s.position + s.count), first = s.position / kPageTokens;
    count += end - std::min(end, blocks_[sequence]);
    if (!shared(sequence, first)) continue;
    // Of the sequences that share it, those before this one have left it.
    const auto left = std::count_if(segments.data(), &s, [&](const Segment& before) {
      const auto other = static_cast<std::size_t>(before.sequence);
      const std::size_t block = before.position / kPageTokens;
      return block < blocks_[other] && slot(other, block) == slot(sequence, first);
    });
    count += references_[slot(sequence, first)] > static_cast<std::size_t>(left) + 1;
  }
  return count;
}

std::vector<BlockTable::Copy> BlockTable::grow(std::span<const Segment> segments) {
  const std::size_t count = needed(segments);
  KVANT_CHECK(count <= free_count_, ErrorCode::out_of_memory,
              "cache: {} more blocks of {} tokens are needed, {} of {} are free", count, kPageTokens, free_count_,
              slots());
  std::vector<Copy> copies;
  for (const Segment& s : segments) {
    const auto sequence = static_cast<std::size_t>(s.sequence);
    std::uint32_t* const row = &slots_[sequence * sequence_blocks_];
    if (const std::size_t first = s.position / kPageTokens; shared(sequence, first)) {
      const std::uint32_t from = row[first];
      row[first] = take();
      copies.push_back({from, row[first]});
      give_back(from);
    }
    for (std::size_t& blocks = blocks_[sequence]; blocks < blocks_of(s.position + s.count);) row[blocks++] = take();
  }
  return copies;
}

void BlockTable::truncate(std::size_t sequence, std::size_t blocks) noexcept {
  while (blocks_[sequence] > blocks) give_back(slots_[sequence * sequence_blocks_ + --blocks_[sequence]]);
}

void BlockTable::share(std::size_t from, std::size_t to, std::size_t blocks) noexcept {
  truncate(to, 0);
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::uint32_t slot = slots_[from * sequence_blocks_ + i];
    slots_[to * sequence_blocks_ + i] = slot;
    ++references_[slot];
  }
  blocks_[to] = blocks;
}

std::uint32_t BlockTable::take() noexcept {
  const std::uint32_t slot = free_[--free_count_];
  references_[slot] = 1;
  return slot;
}

void BlockTable::give_back(std::uint32_t slot) noexcept {
  if (--references_[slot] == 0) free_[free_count_++] = slot;
}

}  // namespace kvant::cache
