#include "bench/speed.h"

#include <gtest/gtest.h>

namespace kvant::bench {
namespace {

engine::Engine open_model() {
  engine::Engine::Options options;
  options.threads = 2;
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
  options.depth = 700;  // more than a chunk, not a multiple of it
  options.prompt = 16;
  options.tokens = 8;
  std::size_t reports = 0;
  options.progress = [&](std::size_t done, std::size_t total, std::string_view) {
    EXPECT_EQ(done, ++reports);
    EXPECT_EQ(total, 3u);
  };
  const SpeedResult result = measure_speed(engine, options);
  EXPECT_EQ(reports, 3u);
  EXPECT_GT(result.prefill_tps, 0);
  EXPECT_DOUBLE_EQ(result.prefill_gflops, 2e-9 * matrix_values(engine.weights()) * result.prefill_tps);
  EXPECT_GT(result.weights_ms, 0);
  EXPECT_GT(result.attention_ms, 0);
  // Medians of the parts may come from different repetitions: allow a quarter.
  EXPECT_LT(result.weights_ms + result.attention_ms, 1.25 * result.decode_ms);
  // 716 positions of 6 layers, one head of 128, f16, twice.
  EXPECT_GE(result.usage.bytes(), 716u * 6 * 128 * 2 * 2);
  EXPECT_GT(result.rss_bytes, result.usage.bytes());
  EXPECT_GT(result.create_ms, 0);
}

TEST(Speed, NothingToTime) {
  engine::Engine engine = open_model();
  SpeedOptions options;
  options.prompt = 0;
  options.tokens = 0;
  const SpeedResult result = measure_speed(engine, options);
  EXPECT_EQ(result.prefill_tps, 0);
  EXPECT_EQ(result.decode_ms, 0);
}

}  // namespace
}  // namespace kvant::bench
