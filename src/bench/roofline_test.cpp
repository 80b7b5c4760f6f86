#include "bench/roofline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "base/aligned_buffer.h"
#include "bench/peak_loops.h"

namespace kvant::bench {
namespace {

TEST(PeakLoops, ReadVisitsEveryWord) {
  // Any one word changed changes the sum.
  for (const Isa isa : supported_isas()) {
    AlignedBuffer<std::uint8_t> bytes(1024);
    std::fill(bytes.begin(), bytes.end(), std::uint8_t{0});
    const PeakLoops loops = peak_loops(isa);
    const std::uint64_t zero = loops.read(bytes.data(), bytes.size());
    for (std::size_t i = 0; i < bytes.size(); i += 8) {
      bytes[i] = 1;
      EXPECT_NE(loops.read(bytes.data(), bytes.size()), zero) << name(isa) << " word at byte " << i;
      bytes[i] = 0;
    }
  }
}

TEST(Roofline, RatesStandInTheRatioOfTheInstructions) {
  ThreadPool pool(1);
  for (const Isa isa : supported_isas()) {
    const Roofline r = measure_roofline(pool, isa);
    EXPECT_GT(r.read_gb_s, 0) << name(isa);
    EXPECT_GT(r.f32_gflops, 0) << name(isa);
    EXPECT_EQ(r.int8_gops > 0, isa != Isa::scalar) << name(isa);
    EXPECT_EQ(r.bf16_gflops > 0, isa == Isa::amx || (isa == Isa::avx512 && has_avx512_bf16())) << name(isa);
    if (isa != Isa::avx512) continue;
    // A bf16 dot product does 2 and an int8 dot product 4 times the work of an f32 one, at up to twice its rate: where
    // a core splits one kind of 512-bit operation and not the other. Sapphire Rapids does one of bf16 for four of f32.
    EXPECT_THAT(r.int8_gops / r.f32_gflops, testing::AllOf(testing::Gt(1.6), testing::Lt(10)));
    if (r.bf16_gflops > 0) {
      EXPECT_THAT(r.bf16_gflops / r.f32_gflops, testing::AllOf(testing::Gt(0.4), testing::Lt(5)));
    }
  }
}

}  // namespace
}  // namespace kvant::bench
