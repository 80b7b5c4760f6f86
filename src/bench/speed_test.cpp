#include "bench/speed.h"

#include <gtest/gtest.h>

namespace kvant::bench {
namespace {

engine::Engine open_model(int threads = 2) {
  engine::Engine::Options options;
  options.threads = threads;
  options.isa = active_isa();
  return engine::Engine(KVANT_SOURCE_DIR "/models/standin-a-q8_0.gguf", options);
}

TEST(Speed, CountsTheMatrices) {
  const engine::Engine engine = open_model();
  // Per layer Q and output 256 x 256, K and V 128 x 256, three of 704 x 256; 6 layers.
  EXPECT_EQ(matrix_values(engine.weights()), 6.0 * 256 * (2 * 256 + 2 * 128 + 3 * 704));
}

TEST(Speed, PartsOfADecodedTokenFitItsTime) {
  engine::Engine engine = open_model();
  SpeedOptions options;
  options.caches = {{}};
  options.depths = {700};  // more than a chunk, not a multiple of it
  options.prompt = 16;
  options.tokens = 8;
  std::size_t reports = 0;
  options.progress = [&](std::size_t done, std::size_t total, std::string_view) {
    EXPECT_EQ(done, ++reports);
    EXPECT_EQ(total, 3u);
  };
  const std::vector<SpeedRow> rows = measure_speed(engine, options);
  EXPECT_EQ(reports, 3u);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].depth, 700u);
  const SpeedResult& result = rows[0].speed;
  EXPECT_GT(result.prefill_tps, 0);
  EXPECT_DOUBLE_EQ(result.prefill_gflops, 2e-9 * matrix_values(engine.weights()) * result.prefill_tps);
  EXPECT_GT(result.weights_ms, 0);
  EXPECT_GT(result.attention_ms, 0);
  // Medians of the parts may come from different repetitions: allow a quarter.
  EXPECT_LT(result.weights_ms + result.attention_ms, 1.25 * result.decode_ms);
  EXPECT_EQ(result.length, 704.5);
  // 716 tokens take 12 blocks of 64; 6 layers, one head of 128, f16, twice.
  EXPECT_EQ(result.cache_bytes, 768.0 * 6 * 128 * 2 * 2);
  EXPECT_GE(result.usage.bytes(), 716u * 6 * 128 * 2 * 2);
  EXPECT_GT(result.rss_bytes, result.usage.bytes());
  EXPECT_GT(result.create_ms, 0);
}

TEST(Speed, NothingToTime) {
  engine::Engine engine = open_model();
  SpeedOptions options;
  options.caches = {{}};
  options.prompt = 0;
  options.tokens = 0;
  const std::vector<SpeedRow> rows = measure_speed(engine, options);
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].speed.prefill_tps, 0);
  EXPECT_EQ(rows[0].speed.decode_ms, 0);
}

TEST(Speed, RowsOfSeveralCachesAndDepths) {
  engine::Engine engine = open_model();
  SpeedOptions options;
  options.caches = {{}, {codec::parse_cache_spec("lm4"), codec::parse_cache_spec("lm4", codec::PageSide::value)}};
  options.depths = {0, 2000, 600};
  options.prompt = 0;
  options.tokens = 4;
  options.repetitions = 2;
  std::size_t reports = 0;
  options.progress = [&](std::size_t, std::size_t total, std::string_view) {
    ++reports;
    EXPECT_EQ(total, 12u);
  };
  const std::vector<SpeedRow> rows = measure_speed(engine, options);
  EXPECT_EQ(reports, 12u);
  ASSERT_EQ(rows.size(), 6u);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i].depth, options.depths[i / 2]);
    EXPECT_EQ(rows[i].cache, i % 2);
    EXPECT_EQ(rows[i].speed.length, static_cast<double>(options.depths[i / 2]) + 2.5);
  }
  EXPECT_GT(rows[0].speed.usage.k_bpv, 3 * rows[1].speed.usage.k_bpv);
  EXPECT_GT(rows[2].speed.attention_ms, rows[0].speed.attention_ms);  // 2,000 tokens against none
}

TEST(Speed, EveryRepetitionIsAtItsDepth) {
  engine::Engine engine = open_model(1);  // two would wait for each other on a busy machine
  SpeedOptions options;
  options.caches = {{}};
  options.depths = {4000, 0};
  options.prompt = 0;
  options.tokens = 16;
  const std::vector<SpeedRow> rows = measure_speed(engine, options);
  // Medians of the tokens of three repetitions. Without the 4,000 tokens they would be the same.
  EXPECT_GT(rows[0].speed.attention_ms, 3 * rows[1].speed.attention_ms);
}

TEST(Speed, FloorOfAttention) {
  const engine::Engine engine = open_model();
  SpeedResult speed;
  speed.usage.k_bpv = 4;
  speed.usage.v_bpv = 16;
  speed.length = 1000;
  const CacheTypes cache{codec::parse_cache_spec("lm4"), {}};
  const AttentionWork work = attention_work(engine.config(), cache, speed);
  EXPECT_DOUBLE_EQ(work.bytes, 20.0 / 8 * 6 * 128 * 1000);
  // 2 query heads share the KV head of each of 6 layers: a product and a sum a key and head.
  EXPECT_DOUBLE_EQ(work.int8_operations, 2.0 * 2 * 6 * 128 * 1000);
  EXPECT_DOUBLE_EQ(work.f32_operations, work.int8_operations);
  const AttentionFloor floor = attention_floor(work, {.read_gb_s = 10, .f32_gflops = 100, .int8_gops = 400});
  EXPECT_DOUBLE_EQ(floor.memory_ms, work.bytes / 10e6);
  EXPECT_DOUBLE_EQ(floor.compute_ms, work.f32_operations / 100e6 + work.int8_operations / 400e6);
  EXPECT_DOUBLE_EQ(attention_floor(work, {.read_gb_s = 10, .f32_gflops = 100}).compute_ms,
                   2 * work.f32_operations / 100e6);
}

}  // namespace
}  // namespace kvant::bench
