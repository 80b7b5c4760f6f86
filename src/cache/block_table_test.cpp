#include "cache/block_table.h"

#include <gmock/gmock.h>

#include "cache/test_text.h"

namespace kvant::cache {
namespace {

using testing::ElementsAre;

Segment tokens(int sequence, std::size_t first, std::size_t end) { return {sequence, 0, end - first, first}; }

std::vector<std::size_t> slots_of(const BlockTable& table, std::size_t sequence) {
  std::vector<std::size_t> slots;
  for (std::size_t i = 0; i < table.blocks(sequence); ++i) slots.push_back(table.slot(sequence, i));
  return slots;
}

TEST(BlockTable, CountsBlocksOfTokens) {
  EXPECT_EQ(blocks_of(0), 0u);
  EXPECT_EQ(blocks_of(1), 1u);
  EXPECT_EQ(blocks_of(64), 1u);
  EXPECT_EQ(blocks_of(65), 2u);
  EXPECT_EQ(blocks_of(~std::size_t{0}), (std::size_t{1} << 58));
}

TEST(BlockTable, ASequenceAloneHasItsBlocksSideBySide) {
  BlockTable table(5, 2, 5);
  for (const Segment& s : {tokens(0, 0, 1), tokens(0, 1, 64), tokens(0, 64, 200), tokens(0, 200, 320)}) {
    EXPECT_TRUE(table.grow({&s, 1}).empty());
  }
  EXPECT_THAT(slots_of(table, 0), ElementsAre(0, 1, 2, 3, 4));
  table.truncate(0, 2);
  EXPECT_EQ(table.free_slots(), 3u);
  const Segment again = tokens(0, 100, 320);
  EXPECT_TRUE(table.grow({&again, 1}).empty());
  EXPECT_THAT(slots_of(table, 0), ElementsAre(0, 1, 2, 3, 4));
}

TEST(BlockTable, SequencesTakeTurns) {
  BlockTable table(6, 2, 6);
  for (std::size_t at = 0; at < 3; ++at) {
    for (const int sequence : {0, 1}) {
      const Segment s = tokens(sequence, 64 * at, 64 * at + 64);
      table.grow({&s, 1});
    }
  }
  EXPECT_THAT(slots_of(table, 0), ElementsAre(0, 2, 4));
  EXPECT_THAT(slots_of(table, 1), ElementsAre(1, 3, 5));
  table.truncate(0, 1);
  table.truncate(1, 0);
  const Segment s = tokens(0, 64, 384);
  table.grow({&s, 1});
  EXPECT_THAT(slots_of(table, 0), ElementsAre(0, 1, 3, 5, 2, 4));
}

TEST(BlockTable, WhoWritesIntoASharedBlockGetsACopy) {
  BlockTable table(8, 3, 4);
  const Segment s = tokens(0, 0, 100);
  table.grow({&s, 1});
  table.share(0, 1, 2);
  table.share(1, 2, 2);
  EXPECT_EQ(table.free_slots(), 6u);
  // All three write into the second block in one batch: two copies, and the last keeps what is there.
  const Segment all[] = {tokens(1, 100, 130), tokens(0, 100, 101), tokens(2, 90, 91)};
  EXPECT_EQ(table.needed({all, 1}), 2u);
  EXPECT_EQ(table.needed({all, 2}), 3u);
  EXPECT_EQ(table.needed(all), 3u);
  const auto copies = table.grow(all);
  ASSERT_EQ(copies.size(), 2u);
  EXPECT_EQ(table.free_slots(), 3u);
  EXPECT_THAT(slots_of(table, 1), ElementsAre(0, copies[0].to, 3));
  EXPECT_THAT(slots_of(table, 0), ElementsAre(0, copies[1].to));
  EXPECT_THAT(slots_of(table, 2), ElementsAre(0, 1));
  EXPECT_EQ(copies[0].from, 1u);
  EXPECT_EQ(copies[1].from, 1u);
  EXPECT_EQ(table.needed(all), 0u);
  for (std::size_t sequence = 0; sequence < 3; ++sequence) table.truncate(sequence, 0);
  EXPECT_EQ(table.free_slots(), 8u);
}

TEST(BlockTable, TooLittleRoomChangesNothing) {
  BlockTable table(3, 2, 8);
  const Segment first = tokens(0, 0, 70);
  table.grow({&first, 1});
  table.share(0, 1, 2);
  const Segment both[] = {tokens(0, 70, 71), tokens(1, 70, 140)};
  EXPECT_EQ(error_of(ErrorCode::out_of_memory, [&] { table.grow(both); }),
            "cache: 2 more blocks of 64 tokens are needed, 1 of 3 are free");
  EXPECT_THAT(slots_of(table, 0), ElementsAre(0, 1));
  EXPECT_THAT(slots_of(table, 1), ElementsAre(0, 1));
  EXPECT_EQ(table.free_slots(), 1u);
  EXPECT_EQ(table.grow({both, 1}).size(), 1u);
}

}  // namespace
}  // namespace kvant::cache
