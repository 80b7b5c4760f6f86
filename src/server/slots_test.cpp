#include "server/slots.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <numeric>

#include "base/error.h"

namespace kvant::server {
namespace {

constexpr std::size_t kBlock = cache::KvCache::kBlockTokens;
constexpr std::size_t kDims = 32;

/// Slots over a small cache, with tokens put into it as a scheduler would.
class SlotsTest : public testing::Test {
 protected:
  void start(std::size_t running, int sequences, std::size_t blocks) {
    cache::CacheConfig config;
    config.layers = config.heads = config.kv_heads = 1;
    config.head_dim = kDims;
    config.capacity = 8 * kBlock;
    config.sequences = sequences;
    config.pool_tokens = blocks * kBlock;
    config.k = config.v = {gguf::TensorType::f32, false};
    cache_ = std::make_unique<cache::KvCache>(config, pool_, Isa::scalar);
    slots_ = std::make_unique<Slots>(*cache_, running);
  }
  /// `count` tokens from a number on.
  static std::vector<Token> tokens(Token first, std::size_t count) {
    std::vector<Token> result(count);
    std::iota(result.begin(), result.end(), first);
    return result;
  }
  static std::vector<Token> joined(std::vector<Token> a, const std::vector<Token>& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  /// Computes the tokens that the cache lacks; their keys and values are the
  /// tokens' numbers.
  void compute(int sequence) {
    const std::vector<Token>& all = slots_->tokens(sequence);
    const std::size_t held = cache_->length(sequence), count = all.size() - held;
    std::vector<float> rows(count * kDims);
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(all[held + i / kDims]);
    const std::array segments{cache::Segment{sequence, 0, count, held}};
    const MatView<const float> view(rows.data(), count, kDims);
    cache_->append(0, {segments, count, nullptr}, view, view);
  }
  /// Takes a place, computes the prompt and ends.
  Slots::Place serve(const std::vector<Token>& prompt) {
    const auto place = slots_->take(prompt, prompt.size() + 1);
    EXPECT_TRUE(place);
    compute(place.value().sequence);
    slots_->give_back(place->sequence);
    return *place;
  }

  ThreadPool pool_{1};
  std::unique_ptr<cache::KvCache> cache_;
  std::unique_ptr<Slots> slots_;
};

TEST_F(SlotsTest, APromptThatGoesOnTakesItsConversation) {
  start(1, 4, 16);
  const auto first = serve(tokens(0, 100));
  EXPECT_EQ(first.cached, 0u);
  const auto second = serve(tokens(0, 150));
  EXPECT_EQ(second.cached, 100u);
  EXPECT_EQ(second.sequence, first.sequence);
  EXPECT_EQ(slots_->kept(), 1u);
  EXPECT_EQ(serve(tokens(0, 150)).cached, 149u) << "the last token is left to compute";
}

TEST_F(SlotsTest, CommonPrefixesAreStoredOnce) {
  start(2, 4, 16);
  const auto system = tokens(0, 3 * kBlock);
  serve(joined(system, tokens(1000, 2 * kBlock)));
  const std::size_t before = cache_->free_blocks();
  const auto other = serve(joined(system, tokens(2000, 2 * kBlock)));
  EXPECT_EQ(other.cached, 3 * kBlock);
  EXPECT_EQ(before - cache_->free_blocks(), 2u) << "only what differs takes memory";
  EXPECT_EQ(slots_->kept(), 2u) << "the first conversation is still there";
  EXPECT_EQ(serve(joined(system, tokens(1000, 2 * kBlock))).cached, 5 * kBlock - 1);
}

TEST_F(SlotsTest, RunningSequencesShareToo) {
  start(2, 4, 16);
  const auto prompt = tokens(0, 2 * kBlock);
  const auto first = slots_->take(prompt, 3 * kBlock);
  ASSERT_TRUE(first);
  EXPECT_FALSE(slots_->take(prompt, 3 * kBlock)) << "the first one is about to compute it";
  EXPECT_TRUE(slots_->take(tokens(500, 10), 20)) << "another prompt does not wait for that";
  compute(first->sequence);
  slots_->give_back(first->sequence);
  const auto second = slots_->take(prompt, 3 * kBlock);
  ASSERT_TRUE(second);
  EXPECT_EQ(second->cached, 2 * kBlock - 1);
}

TEST_F(SlotsTest, TheOldestConversationGivesWay) {
  start(1, 3, 16);
  serve(tokens(0, 50));
  serve(tokens(1000, 50));
  serve(tokens(2000, 50));
  serve(tokens(0, 60));  // used again: that of 1000 is the oldest
  serve(tokens(3000, 50));
  EXPECT_EQ(slots_->evicted(), 1u);
  EXPECT_EQ(serve(tokens(0, 70)).cached, 60u);
  EXPECT_EQ(serve(tokens(1000, 50)).cached, 0u);
}

TEST_F(SlotsTest, RunningSequencesGetTheBlocksThatTheyMayNeed) {
  start(2, 6, 8);
  for (Token t = 0; t < 4; ++t) serve(tokens(1000 * t, 2 * kBlock));
  EXPECT_EQ(cache_->free_blocks(), 2u) << "the fourth might have needed three blocks, so the first gave way";
  const auto first = slots_->take(tokens(10'000, 10), 5 * kBlock);
  ASSERT_TRUE(first);
  EXPECT_GE(cache_->free_blocks(), 5u);
  EXPECT_FALSE(slots_->take(tokens(20'000, 10), 4 * kBlock)) << "3 blocks are left";
  const auto second = slots_->take(tokens(30'000, 10), 3 * kBlock);
  ASSERT_TRUE(second);
  // Both grow to what they asked for, whatever the order.
  for (const auto& [place, length] : {std::pair(*first, 5 * kBlock), std::pair(*second, 3 * kBlock)}) {
    auto& all = slots_->tokens(place.sequence);
    all = joined(all, tokens(0, length - all.size()));
    compute(place.sequence);
  }
  EXPECT_EQ(cache_->free_blocks(), 0u);
}

TEST_F(SlotsTest, ASharedLastBlockIsReservedForItsCopies) {
  start(3, 5, 6);
  const auto prompt = tokens(0, kBlock + 10);
  const auto first = slots_->take(prompt, 2 * kBlock);
  ASSERT_TRUE(first);
  compute(first->sequence);
  // Both others share the partly filled second block, and need one each when
  // they write.
  const auto second = slots_->take(joined(prompt, {7}), 2 * kBlock),
             third = slots_->take(joined(prompt, {8}), 2 * kBlock);
  ASSERT_TRUE(second && third);
  for (const auto& place : {first, second, third}) {
    auto& all = slots_->tokens(place->sequence);
    all = joined(all, tokens(100 * place->sequence, 2 * kBlock - all.size()));
    compute(place->sequence);
  }
  EXPECT_EQ(cache_->free_blocks(), 2u) << "one block of all, one of each";
}

TEST_F(SlotsTest, SavedConversationsComeBack) {
  const std::string path = testing::TempDir() + "kvant-slots-test-" + std::to_string(::getpid()) + ".kv";
  start(1, 3, 8);
  const auto place = serve(tokens(0, 100));
  EXPECT_EQ(slots_->save(place.sequence, path), 100u);
  EXPECT_THROW(slots_->save(place.sequence + 1, path), Error) << "empty";
  EXPECT_THROW(slots_->save(99, path), Error);
  start(1, 3, 8);
  serve(tokens(5000, 7 * kBlock));  // gives way
  EXPECT_EQ(slots_->restore(2, path, 1000), 100u);
  EXPECT_EQ(slots_->evicted(), 1u);
  EXPECT_EQ(serve(tokens(0, 120)).cached, 100u);
  EXPECT_THROW(slots_->restore(1, path, 50), Error) << "tokens that are none";
  EXPECT_EQ(slots_->list().size(), 1u);
  std::filesystem::remove(path);
}

TEST_F(SlotsTest, RunningSequencesAreNeitherSavedNorReplaced) {
  const std::string path = testing::TempDir() + "kvant-slots-test-" + std::to_string(::getpid()) + ".kv";
  start(1, 3, 8);
  slots_->save(serve(tokens(0, 5 * kBlock)).sequence, path);
  const auto running = slots_->take(tokens(1000, 10), 4 * kBlock);
  ASSERT_TRUE(running);
  EXPECT_THROW(slots_->save(running->sequence, path), Error);
  EXPECT_THROW(slots_->restore(running->sequence, path, 10'000), Error);
  const int other = running->sequence == 2 ? 1 : 2;
  try {
    slots_->restore(other, path, 10'000);
    FAIL() << "5 blocks where 4 of 8 are reserved";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ErrorCode::out_of_memory);
  }
  EXPECT_GE(cache_->free_blocks(), 4u) << "what runs has what it may need";
  std::filesystem::remove(path);
}

TEST_F(SlotsTest, RandomUseNeverRunsOutOfBlocks) {
  start(4, 8, 12);
  std::vector<Slots::Place> running;
  std::vector<std::size_t> goals;
  std::size_t x = 1, served = 0;
  const auto random = [&](std::size_t n) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    return (x >> 33) % n;
  };
  for (int step = 0; step < 3000; ++step) {
    // Prompts that share starts of various lengths.
    const auto prompt =
        joined(tokens(0, random(3 * kBlock)), tokens(static_cast<Token>(1000 * random(5)), 1 + random(kBlock)));
    const std::size_t goal = prompt.size() + random(4 * kBlock);
    if (const auto place = slots_->take(prompt, goal)) {
      running.push_back(*place);
      goals.push_back(goal);
      ++served;
    }
    for (std::size_t i = 0; i < running.size();) {
      auto& all = slots_->tokens(running[i].sequence);
      all = joined(all, tokens(static_cast<Token>(random(9)), std::min(goals[i] - all.size(), random(50))));
      if (all.size() > cache_->length(running[i].sequence)) compute(running[i].sequence);  // throws when none is free
      if (all.size() == goals[i] || random(10) == 0) {
        slots_->give_back(running[i].sequence);
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
        goals.erase(goals.begin() + static_cast<std::ptrdiff_t>(i));
      } else {
        ++i;
      }
    }
  }
  EXPECT_GT(served, 300u);
  EXPECT_GT(slots_->evicted(), 50u);
}

}  // namespace
}  // namespace kvant::server
