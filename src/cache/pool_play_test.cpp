#include <gtest/gtest.h>

#include <memory>
#include <set>

#include "cache/test_pool.h"

/// Sequences that share a pool of blocks, against caches that hold one sequence each.
namespace kvant::cache {
namespace {

constexpr std::size_t kBlock = KvCache::kBlockTokens;

/// What a pool should do: a cache for each sequence that shares nothing, and blocks counted by their names.
class Model {
 public:
  Model(CacheConfig config, const std::vector<Text>& texts, ThreadPool& pool)
      : window_(config.k.recent + config.v.recent > 0), blocks_(config.blocks()), texts_(&texts), pool_(&pool) {
    sequences_.resize(static_cast<std::size_t>(config.sequences));
    config.sequences = 1;
    config.pool_tokens = 0;
    config_ = config;
    for (Sequence& s : sequences_) s.cache = make();
  }

  std::size_t length(int sequence) const { return of(sequence).length; }
  std::size_t blocks() const { return blocks_; }
  /// Free blocks, when sequence `without` is forgotten.
  std::size_t free_blocks(int without = -1) const {
    std::set<int> used;
    for (const Sequence& s : sequences_) {
      if (without < 0 || &s != &of(without)) used.insert(s.blocks.begin(), s.blocks.end());
    }
    return blocks_ - used.size();
  }
  /// Blocks that a batch takes, as it is: of a copy of the tables.
  std::size_t needed(const std::vector<Part>& parts) const {
    auto tables = this->tables();
    int next = next_;
    for (const Part& p : parts) grow(tables, p, next);
    return static_cast<std::size_t>(next - next_);
  }

  std::vector<float> append(const Part& part) {
    auto tables = this->tables();
    grow(tables, part, next_);
    for (std::size_t i = 0; i < tables.size(); ++i) sequences_[i].blocks = tables[i];
    Sequence& s = of(part.sequence);
    s.history.push_back({part.text, part.first, part.count});
    s.length += part.count;
    return cache::feed(*s.cache, *texts_, {{0, part.text, part.first, part.count}})[0];
  }
  void truncate(int sequence, std::size_t length) {
    Sequence& s = of(sequence);
    s.length = std::min(s.length, length);
    s.blocks.resize((s.length + kBlock - 1) / kBlock);
    cut(s.history, length);
    s.cache->truncate(0, length);
  }
  void fork(int from, int to, std::size_t length) {
    if (from != to) {
      Sequence& s = of(to);
      s.length = of(from).length;
      s.blocks = of(from).blocks;
      s.history = of(from).history;
      replay(s);
    }
    truncate(to, length);
  }
  /// `to` becomes what `from` is, in blocks of its own.
  void copy(int from, int to) {
    Sequence& s = of(to);
    s.length = of(from).length;
    s.history = of(from).history;
    s.blocks.clear();
    for (std::size_t i = 0; i < (s.length + kBlock - 1) / kBlock; ++i) s.blocks.push_back(next_++);
    replay(s);
  }

 private:
  /// Tokens appended, or (count 0) a truncation.
  struct Step {
    std::size_t text, first, count;
  };
  struct Sequence {
    std::unique_ptr<KvCache> cache;
    std::size_t length = 0;
    std::vector<int> blocks = {};  ///< names
    std::vector<Step> history = {};
  };

  Sequence& of(int sequence) { return sequences_[static_cast<std::size_t>(sequence)]; }
  const Sequence& of(int sequence) const { return sequences_[static_cast<std::size_t>(sequence)]; }
  std::unique_ptr<KvCache> make() const { return std::make_unique<KvCache>(config_, *pool_, supported_isas().back()); }
  std::vector<std::vector<int>> tables() const {
    std::vector<std::vector<int>> tables;
    for (const Sequence& s : sequences_) tables.push_back(s.blocks);
    return tables;
  }
  static void grow(std::vector<std::vector<int>>& tables, const Part& p, int& next) {
    auto& blocks = tables[static_cast<std::size_t>(p.sequence)];
    if (p.first % kBlock != 0) {
      int owners = 0;
      for (const auto& table : tables)
        owners += static_cast<int>(std::count(table.begin(), table.end(), blocks.back()));
      if (owners > 1) blocks.back() = next++;
    }
    while (blocks.size() * kBlock < p.first + p.count) blocks.push_back(next++);
  }
  /// Where a window remembers what was there, truncations are part of how a sequence came about.
  void cut(std::vector<Step>& history, std::size_t length) const {
    if (window_) return history.push_back({0, length, 0});
    while (!history.empty() && history.back().first >= length) history.pop_back();
    if (!history.empty()) history.back().count = std::min(history.back().count, length - history.back().first);
  }
  void replay(Sequence& s) const {
    s.cache = make();
    for (const Step& step : s.history) {
      if (step.count == 0) {
        s.cache->truncate(0, step.first);
      } else {
        cache::feed(*s.cache, *texts_, {{0, step.text, step.first, step.count}});
      }
    }
  }

  CacheConfig config_;
  bool window_;
  std::size_t blocks_;
  int next_ = 0;
  std::vector<Sequence> sequences_;
  const std::vector<Text>* texts_;
  ThreadPool* pool_;
};

/// Random operations on a pool that is often exhausted.
class Play {
 public:
  Play(const CacheConfig& config, std::uint64_t seed)
      : config_(config),
        cache_(config, pool_, supported_isas().back()),
        model_(config_, texts_, pool_),
        random_(seed) {}

  void step() {
    const int a = sequence(), b = sequence();
    switch (random_.below(8)) {
      case 0: {
        const std::size_t length = random_.below(model_.length(a) + 1);
        cache_.fork(a, b, length);
        return model_.fork(a, b, length);
      }
      case 1: {
        cache_.fork(a, b, model_.length(a));
        return model_.fork(a, b, model_.length(a));
      }
      case 2: {
        const std::size_t length = random_.below(3) * random_.below(model_.length(a) + 1);
        cache_.truncate(a, length);
        return model_.truncate(a, length);
      }
      case 3:
        return save_and_load(a, b);
      default:
        return append();
    }
  }
  testing::AssertionResult agrees() const {
    if (cache_.free_blocks() != model_.free_blocks()) {
      return testing::AssertionFailure() << cache_.free_blocks() << " free blocks, not " << model_.free_blocks();
    }
    for (int s = 0; s < config_.sequences; ++s) {
      if (cache_.length(s) != model_.length(s)) return testing::AssertionFailure() << "length of " << s;
      for (const std::size_t more : {1U, 64U, 65U}) {
        const std::size_t length = model_.length(s) + more;
        if (cache_.blocks_needed(s, length) != model_.needed({{s, 0, model_.length(s), more}})) {
          return testing::AssertionFailure() << "sequence " << s << " needs " << cache_.blocks_needed(s, length);
        }
      }
    }
    return testing::AssertionSuccess();
  }
  void release() {
    for (int s = 0; s < config_.sequences; ++s) cache_.truncate(s, 0);
    EXPECT_EQ(cache_.free_blocks(), cache_.blocks());
  }
  int refused = 0, appended = 0;

 private:
  int sequence() { return static_cast<int>(random_.below(static_cast<std::size_t>(config_.sequences))); }

  void append() {
    std::vector<Part> parts;
    for (int s = 0; s < config_.sequences; ++s) {
      const std::size_t length = model_.length(s), room = config_.capacity - length;
      if (room == 0 || random_.below(2) == 0) continue;
      const std::size_t most = random_.below(2) == 0 ? 3 : 90;
      parts.push_back({s, random_.below(texts_.size()), length, 1 + random_.below(std::min(room, most))});
    }
    if (parts.empty()) return;
    if (const std::size_t needed = model_.needed(parts); needed > model_.free_blocks()) {
      ++refused;
      EXPECT_EQ(error_of(ErrorCode::out_of_memory, [&] { feed(cache_, texts_, parts); }),
                fmt::format("cache: {} more blocks of 64 tokens are needed, {} of {} are free", needed,
                            model_.free_blocks(), model_.blocks()));
      return;
    }
    ++appended;
    const auto outputs = feed(cache_, texts_, parts);
    for (std::size_t i = 0; i < parts.size(); ++i) EXPECT_EQ(outputs[i], model_.append(parts[i])) << i;
  }

  void save_and_load(int from, int to) {
    const Path file;
    cache_.save(file.path, from);
    const std::size_t needed = (model_.length(from) + kBlock - 1) / kBlock, left = model_.free_blocks(to);
    if (needed > left) {
      EXPECT_EQ(error_of(ErrorCode::out_of_memory, [&] { cache_.load(file.path, to); }),
                fmt::format("{}: needs {} blocks of 64 tokens, {} of {} are free", file.path.string(), needed, left,
                            model_.blocks()));
      return;
    }
    cache_.load(file.path, to);
    model_.copy(from, to);
  }

  CacheConfig config_;
  ThreadPool pool_{2};
  std::vector<Text> texts_{{config_, config_.capacity, 1}, {config_, config_.capacity, 2}};
  KvCache cache_;
  Model model_;
  Random random_;
};

TEST(Pool, SequencesAreAsIfEachWereAlone) {
  std::vector<CacheConfig> configs{make_pool_config("f16", "q8_0", 4, 300, 450),
                                   make_pool_config("lm3", "lm4,group=32", 4, 300, 450),
                                   make_pool_config("rot-q4_0,sinks=3,recent=20", "uni5", 4, 300, 450),
                                   make_pool_config("lm2,sinks=70,recent=65", "f16,recent=7", 3, 300, 330),
                                   make_pool_config("flexfix:0:5:0:1:0", "q4_0", 3, 200, 200),
                                   make_planned_config(3, 200, 200)};
  for (std::size_t i = 0; i < configs.size(); ++i) {
    SCOPED_TRACE(i);
    Play play(configs[i], i + 1);
    for (int step = 0; step < 80; ++step) {
      play.step();
      ASSERT_TRUE(play.agrees()) << step;
      ASSERT_FALSE(testing::Test::HasFailure()) << step;
    }
    EXPECT_GT(play.refused, 0);
    EXPECT_GT(play.appended, 15);
    play.release();
  }
}

/// A pool whose slots two sequences took by turns, in which one then takes what the other gives back.
TEST(Pool, ResultsDoNotDependOnTheSlots) {
  ThreadPool pool(2);
  for (const char* type : {"f16", "lm4", "lm3,recent=40"}) {
    const CacheConfig config = make_pool_config(type, type, 3, 1200, 2000);
    const Text text(config, 1200, 3), other(config, 1200, 4);
    CacheConfig alone = config;
    alone.sequences = 1;
    alone.pool_tokens = 0;
    const std::vector<float> expected = text.run(alone, pool, supported_isas().back(), 400);
    KvCache cache(config, pool, supported_isas().back());
    std::vector<float> out(expected.size());
    for (std::size_t at = 0; at < 640; at += 64) {
      other.feed(cache, 0, at, 64, out);
      text.feed(cache, 1, at, 64, out);
    }
    cache.truncate(1, 65);
    cache.truncate(0, 0);
    EXPECT_EQ(text.run(cache, 400, 2), expected) << type;
    cache.truncate(1, 0);
    EXPECT_EQ(cache.free_blocks(), cache.blocks() - 19);
  }
}

}  // namespace
}  // namespace kvant::cache
