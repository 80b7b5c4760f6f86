#include <gmock/gmock.h>

#include <fstream>
#include <functional>
#include <tuple>

#include "base/file_io.h"
#include "cache/test_pool.h"

namespace kvant::cache {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr std::size_t kBlock = KvCache::kBlockTokens;

struct PoolTest : testing::Test {
  ThreadPool pool{2};
  CacheConfig config = make_pool_config("q8_0", "lm4", 3, 300, 400);  // seven blocks
  std::vector<Text> texts{{config, 300, 5}, {config, 300, 6}};
  KvCache cache{config, pool, supported_isas().back()};

  /// The outputs of tokens [first, 200) after `same` tokens of text 0 and others of text 1, computed alone.
  std::vector<float> alone(std::size_t same, std::size_t first, std::size_t end) {
    CacheConfig c = config;
    c.sequences = 1;
    c.pool_tokens = 0;
    KvCache other(c, pool, supported_isas().back());
    feed(other, texts, {{0, 0, 0, same}});
    if (first > same) feed(other, texts, {{0, 1, same, first - same}});
    return feed(other, texts, {{0, 1, first, end - first}})[0];
  }
};

TEST_F(PoolTest, TakesBlocksAsSequencesGrowAndGivesThemBack) {
  EXPECT_EQ(cache.blocks(), 7u);
  EXPECT_EQ(cache.free_blocks(), 7u);
  feed(cache, texts, {{0, 0, 0, 1}});
  EXPECT_EQ(cache.free_blocks(), 6u);
  EXPECT_EQ(cache.blocks_needed(0, 1), 0u);
  EXPECT_EQ(cache.blocks_needed(0, 64), 0u);
  EXPECT_EQ(cache.blocks_needed(0, 65), 1u);
  EXPECT_EQ(cache.blocks_needed(1, 300), 5u);
  feed(cache, texts, {{0, 0, 1, 128}});
  EXPECT_EQ(cache.free_blocks(), 4u);
  cache.truncate(0, 128);
  EXPECT_EQ(cache.free_blocks(), 5u);
  cache.truncate(0, 300);
  EXPECT_EQ(cache.length(0), 128u);
  cache.truncate(0, 0);
  EXPECT_EQ(cache.free_blocks(), 7u);
}

TEST_F(PoolTest, ForksShareBlocksUntilOneWrites) {
  feed(cache, texts, {{0, 0, 0, 100}});
  cache.fork(0, 1, 100);
  cache.fork(1, 2, 70);  // a fork of a fork
  EXPECT_EQ(cache.free_blocks(), 5u);
  EXPECT_EQ(cache.length(1), 100u);
  EXPECT_EQ(cache.length(2), 70u);
  EXPECT_EQ(cache.blocks_needed(0, 101), 1u);
  EXPECT_EQ(cache.blocks_needed(2, 129), 2u);
  // The copy writes first, then the one it came from, then the last one into what it has alone by now.
  EXPECT_EQ(feed(cache, texts, {{1, 1, 100, 20}})[0], alone(100, 100, 120));
  EXPECT_EQ(cache.free_blocks(), 4u);
  EXPECT_EQ(feed(cache, texts, {{0, 1, 100, 10}})[0], alone(100, 100, 110));
  EXPECT_EQ(cache.free_blocks(), 3u);
  EXPECT_EQ(cache.blocks_needed(2, 128), 0u);
  EXPECT_EQ(feed(cache, texts, {{2, 1, 70, 10}})[0], alone(70, 70, 80));
  EXPECT_EQ(cache.free_blocks(), 3u);
  // And none has noticed the others.
  const auto outputs = feed(cache, texts, {{0, 1, 110, 2}, {2, 1, 80, 1}, {1, 1, 120, 3}});
  EXPECT_EQ(outputs[0], alone(100, 110, 112));
  EXPECT_EQ(outputs[1], alone(70, 80, 81));
  EXPECT_EQ(outputs[2], alone(100, 120, 123));
}

TEST_F(PoolTest, AllWhoShareABlockMayWriteInOneBatch) {
  feed(cache, texts, {{0, 0, 0, 100}});
  cache.fork(0, 1, 100);
  cache.fork(0, 2, 90);
  const auto outputs = feed(cache, texts, {{2, 1, 90, 5}, {0, 1, 100, 3}, {1, 1, 100, 4}});
  EXPECT_EQ(outputs[0], alone(90, 90, 95));
  EXPECT_EQ(outputs[1], alone(100, 100, 103));
  EXPECT_EQ(outputs[2], alone(100, 100, 104));
  EXPECT_EQ(cache.free_blocks(), 3u);
}

TEST_F(PoolTest, ForksOfNothingAndOfThemselves) {
  feed(cache, texts, {{0, 0, 0, 100}, {1, 1, 0, 130}});
  EXPECT_EQ(cache.free_blocks(), 2u);
  cache.fork(0, 1, 0);  // what was there is given back
  EXPECT_EQ(cache.length(1), 0u);
  EXPECT_EQ(cache.free_blocks(), 5u);
  cache.fork(0, 0, 64);
  EXPECT_EQ(cache.length(0), 64u);
  EXPECT_EQ(cache.free_blocks(), 6u);
  EXPECT_EQ(feed(cache, texts, {{0, 1, 64, 9}})[0], alone(64, 64, 73));
  cache.fork(0, 1, 64);  // no block is shared in part
  EXPECT_EQ(feed(cache, texts, {{1, 1, 64, 9}})[0], alone(64, 64, 73));
  EXPECT_EQ(cache.free_blocks(), 4u);
  EXPECT_EQ(error_of(ErrorCode::invalid_argument, [&] { cache.fork(0, 1, 74); }),
            "cache: fork of 74 tokens of sequence 0, which holds 73");
  EXPECT_THAT(error_of(ErrorCode::invalid_argument, [&] { cache.fork(0, 3, 1); }), HasSubstr("sequence 3, expected"));
  EXPECT_THAT(error_of(ErrorCode::invalid_argument, [&] { cache.fork(-1, 0, 1); }), HasSubstr("sequence -1, expected"));
  EXPECT_THAT(error_of(ErrorCode::invalid_argument, [&] { cache.blocks_needed(3, 1); }), HasSubstr("sequence 3"));
}

TEST_F(PoolTest, ExhaustionIsNamedAndStoresNothing) {
  feed(cache, texts, {{0, 0, 0, 256}, {1, 0, 0, 129}});
  EXPECT_EQ(cache.free_blocks(), 0u);
  const char* message = "cache: 1 more blocks of 64 tokens are needed, 0 of 7 are free";
  const auto refused = [&](const std::vector<Part>& parts) {
    return error_of(ErrorCode::out_of_memory, [&] { feed(cache, texts, parts); });
  };
  EXPECT_EQ(refused({{1, 0, 129, 3}, {0, 1, 256, 1}}), message);
  EXPECT_EQ(cache.length(0), 256u);
  EXPECT_EQ(cache.length(1), 129u);
  EXPECT_EQ(feed(cache, texts, {{1, 1, 129, 3}})[0], alone(129, 129, 132));
  cache.fork(1, 2, 132);  // takes nothing, but then there is none to write into
  EXPECT_EQ(refused({{1, 1, 132, 1}}), message);
  EXPECT_EQ(refused({{2, 1, 132, 1}}), message);
  cache.fork(1, 2, 128);
  EXPECT_EQ(feed(cache, texts, {{1, 1, 132, 1}})[0], alone(129, 132, 133));
  cache.truncate(1, 128);
  EXPECT_EQ(feed(cache, texts, {{0, 1, 256, 30}})[0], alone(256, 256, 286));
}

TEST_F(PoolTest, WhatAFailedBatchTookIsGivenBackByTruncation) {
  texts[1].k[200 * texts[1].width()] = std::nanf("");
  feed(cache, texts, {{0, 0, 0, 100}});
  cache.fork(0, 1, 100);
  EXPECT_THAT(error_of(ErrorCode::format, [&] { feed(cache, texts, {{0, 1, 100, 101}}); }), HasSubstr("position 200"));
  EXPECT_EQ(cache.length(0), 100u);
  cache.truncate(0, 100);
  EXPECT_EQ(cache.free_blocks(), 4u);
  EXPECT_EQ(feed(cache, texts, {{0, 1, 100, 9}})[0], alone(100, 100, 109));
  EXPECT_EQ(feed(cache, texts, {{1, 1, 100, 9}})[0], alone(100, 100, 109));
}

TEST_F(PoolTest, ASequenceCanBeTakenToOtherCaches) {
  const Path file;
  for (const char* type : {"lm4", "lm2,sinks=3,recent=20"}) {
    config = make_pool_config(type, "q8_0", 3, 300, 400);
    KvCache from(config, pool, supported_isas().back());
    feed(from, texts, {{0, 0, 0, 100}, {1, 1, 0, 30}});
    from.fork(0, 2, 80);
    feed(from, texts, {{2, 1, 80, 70}});
    from.save(file.path, 2);
    from.fork(2, 0, 150);
    const auto expected = feed(from, texts, {{0, 1, 150, 20}})[0];
    for (const auto& [sequences, capacity, tokens] : std::initializer_list<std::tuple<int, std::size_t, std::size_t>>{
             {1, 170, 0}, {5, 300, 192}, {2, 1000, 1000}}) {
      CacheConfig c = config;
      c.sequences = sequences;
      c.capacity = capacity;
      c.pool_tokens = tokens;
      KvCache to(c, pool, supported_isas().back());
      feed(to, texts, {{sequences - 1, 0, 0, 170}});  // is forgotten
      to.load(file.path, sequences - 1);
      EXPECT_EQ(to.length(sequences - 1), 150u);
      EXPECT_EQ(to.free_blocks(), to.blocks() - 3);
      EXPECT_EQ(feed(to, texts, {{sequences - 1, 1, 150, 20}})[0], expected);
      if (sequences == 1) {
        to.load(file.path);  // the file of a cache that has no other
        EXPECT_EQ(feed(to, texts, {{0, 1, 150, 20}})[0], expected);
      }
    }
  }
}

/// A saved sequence and caches that cannot take it.
struct Refused : PoolTest {
  Path file;
  std::string saved(const KvCache& of) {
    const Path path{file.path.string() + ".now"};
    of.save(path.path);
    return read_text(path.path.string());
  }
  /// What is said of the file, after its name, by a cache that stays as it was.
  std::string message(ErrorCode code, const CacheConfig& c) {
    KvCache to(c, pool, Isa::scalar);
    feed(to, texts, {{0, 1, 0, 70}, {1, 1, 0, 5}});
    const std::string before = saved(to);
    const std::string text = error_of(code, [&] { to.load(file.path, 0); });
    EXPECT_EQ(saved(to), before);
    EXPECT_THAT(text, StartsWith(file.path.string() + ": "));
    return text.substr(std::min(text.size(), file.path.string().size() + 2));
  }
  std::string wrong(const std::function<void(CacheConfig&)>& change) {
    CacheConfig c = config;
    change(c);
    return message(ErrorCode::invalid_argument, c);
  }
};

TEST_F(Refused, SequencesOfOtherCachesAreNamed) {
  config.model = 7;
  KvCache from(config, pool, Isa::scalar);
  feed(from, texts, {{1, 0, 0, 200}});
  from.save(file.path, 1);
  EXPECT_EQ(wrong([](CacheConfig& c) { c.model = 8; }),
            "saved with model 0000000000000007, expected model 0000000000000008");
  EXPECT_EQ(wrong([](CacheConfig& c) { c.model = 0; }), "saved with model 0000000000000007, expected ");
  EXPECT_EQ(wrong([](CacheConfig& c) { c.k = codec::parse_cache_spec("f16"); }),
            "saved with keys q8_0, expected keys f16");
  EXPECT_EQ(wrong([](CacheConfig& c) { c.layers = 1; }), "saved with layers 2, expected layers 1");
  EXPECT_EQ(wrong([](CacheConfig& c) { c.capacity = 199; }), "a sequence of 200 tokens, the capacity is 199");
  config.pool_tokens = 256;
  EXPECT_EQ(message(ErrorCode::out_of_memory, config), "needs 4 blocks of 64 tokens, 3 of 4 are free");
  config.pool_tokens = 257;
  KvCache to(config, pool, Isa::scalar);
  to.load(file.path, 2);
  EXPECT_EQ(to.length(2), 200u);
  from.save(file.path);
  EXPECT_EQ(wrong([](CacheConfig&) {}), "saved with sequences 3, expected sequences 1");
  EXPECT_THAT(error_of(ErrorCode::invalid_argument, [&] { from.save(file.path, 3); }), HasSubstr("sequence 3"));
  EXPECT_THAT(error_of(ErrorCode::invalid_argument, [&] { from.load(file.path, 3); }), HasSubstr("sequence 3"));
}

TEST_F(Refused, SequencesOfOtherPlansAreNamed) {
  config = make_planned_config(2, 300, 0);
  KvCache from(config, pool, Isa::scalar);
  feed(from, texts, {{1, 0, 0, 100}});
  from.save(file.path, 1);
  EXPECT_THAT(wrong([](CacheConfig& c) { c.constants[1].k_codes[0].transform[5] = to_bf16(3.0F); }),
              StartsWith("saved with constants of the keys "));
  EXPECT_THAT(
      wrong([](CacheConfig& c) { std::swap(c.constants[0].v_codes[1].parts[0], c.constants[0].v_codes[1].parts[1]); }),
      StartsWith("saved with constants of the values "));
}

/// Files from before models had names are taken.
TEST_F(Refused, FilesThatNameNoModelAreTaken) {
  KvCache from(config, pool, Isa::scalar);
  feed(from, texts, {{1, 0, 0, 100}});
  from.save(file.path, 1);
  config.model = 7;
  KvCache to(config, pool, Isa::scalar);
  to.load(file.path, 0);
  EXPECT_EQ(to.length(0), 100u);
  config.v = codec::parse_cache_spec("lm3", codec::PageSide::value);
  EXPECT_THAT(wrong([](CacheConfig&) {}), StartsWith("saved with values lm4"));
}

/// Bytes of memory that this process has mapped.
std::size_t mapped_bytes() {
  std::size_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

TEST(PoolUsage, IsWhatIsAllocated) {
  ThreadPool pool(1);
  CacheConfig config = make_pool_config("f16", "q4_0,recent=64", 8, 100'000, 300'000);
  const std::size_t before = mapped_bytes();
  const KvCache cache(config, pool, Isa::scalar);
  const std::size_t mapped = mapped_bytes() - before;
  const CacheUsage usage = cache.usage();
  constexpr std::size_t kTokens = 300'032;  // whole blocks
  EXPECT_EQ(cache.blocks(), kTokens / kBlock);
  EXPECT_NEAR(static_cast<double>(usage.k_bytes), 2.0 * 2 * kTokens * 256, 4096);
  EXPECT_NEAR(static_cast<double>(usage.v_bytes), 2.0 * 2 * (kTokens * 72 + 8 * 64 * 256), 12288);
  EXPECT_NEAR(usage.k_bpv, 16, 1e-4);
  EXPECT_NEAR(usage.v_bpv, 4.5 + 16.0 * 8 * 64 / kTokens, 1e-3);
  EXPECT_GE(mapped, usage.bytes());
  EXPECT_LE(mapped, usage.bytes() + usage.workspace_bytes + (std::size_t{8} << 20));
  EXPECT_LT(usage.workspace_bytes, std::size_t{16} << 20);
}

TEST(PoolUsage, PoolsFitIntoWhatIsGiven) {
  for (CacheConfig config : {make_pool_config("f16", "lm4", 4, 5000, 0), make_planned_config(3, 5000, 0),
                             make_pool_config("lm2,recent=100", "q8_0,sinks=4,recent=100", 4, 5000, 0)}) {
    const auto bytes = [&](std::size_t tokens) {
      config.pool_tokens = tokens;
      return planned_usage(config, Isa::scalar).bytes();
    };
    for (const std::size_t tokens : {std::size_t{64}, std::size_t{640}, std::size_t{1} << 36}) {
      const std::size_t needed = bytes(tokens);
      EXPECT_EQ(pool_tokens_within(config, needed, Isa::scalar), tokens);
      EXPECT_EQ(pool_tokens_within(config, needed - 1, Isa::scalar), tokens - 64);
    }
    EXPECT_EQ(pool_tokens_within(config, 0, Isa::scalar), 0u);
  }
  CacheConfig config = make_pool_config("f16", "lm4", 4, 5000, ~std::size_t{0});
  ThreadPool pool(1);
  EXPECT_EQ(error_of(ErrorCode::invalid_argument, [&] { KvCache(config, pool, Isa::scalar); }),
            "cache: pool of 18446744073709551615 tokens, expected at most 274877906880");
  config.pool_tokens = std::size_t{1} << 36;
  EXPECT_THAT(error_of(ErrorCode::out_of_memory, [&] { KvCache(config, pool, Isa::scalar); }),
              StartsWith("cache of 68719476736 tokens needs "));
}

}  // namespace
}  // namespace kvant::cache
