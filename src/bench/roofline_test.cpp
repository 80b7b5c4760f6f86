#include "bench/roofline.h"

#include <gtest/gtest.h>

#include <numeric>

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

TEST(Roofline, EveryTierReachesMoreThanTheOneBelow) {
  // A tier's registers are at least as wide, and an int8 or bf16 product does at least twice the work of an f32 one.
  ThreadPool pool(1);
  double below = 0;
  for (const Isa isa : supported_isas()) {
    const Roofline r = measure_roofline(pool, isa);
    EXPECT_GT(r.read_gb_s, 0.5) << name(isa);
    EXPECT_GT(r.f32_gflops, 0.8 * below) << name(isa);
    below = r.f32_gflops;
    if (isa == Isa::avx512) {
      EXPECT_GT(r.int8_gops, 1.5 * r.f32_gflops);
      if (has_avx512_bf16()) EXPECT_GT(r.bf16_gflops, 1.2 * r.f32_gflops);
    }
    if (isa == Isa::scalar) EXPECT_EQ(r.int8_gops, 0);
  }
}

}  // namespace
}  // namespace kvant::bench
