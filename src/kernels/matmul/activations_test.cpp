#include "kernels/matmul/activations.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/matmul/weights_for_test.h"

namespace kvant::kernels {
namespace {

TEST(Activations, EveryCodePositionIsUsedOnce) {
  std::vector<int> seen(ActivationBlock::kValues);
  for (std::size_t i = 0; i < ActivationBlock::kValues; ++i) ++seen[code_half(i) * 128 + code_position(i)];
  EXPECT_EQ(seen, std::vector<int>(ActivationBlock::kValues, 1));
}

TEST(Activations, ValuesAreWithinHalfAStep) {
  for (std::size_t cols : {8u, 32u, 172u, 256u, 544u}) {
    const std::vector<float> x = random_values(cols, cols);
    AlignedBuffer<ActivationBlock> blocks(activation_blocks(cols));
    quantize_activations_kernels().back().function(x.data(), cols, blocks.data(), 1);
    for (std::size_t i = 0; i < round_up(cols, ActivationBlock::kValues); ++i) {
      const ActivationBlock& b = blocks[i / ActivationBlock::kValues];
      const std::size_t at = i % ActivationBlock::kValues;
      const double code = b.q[code_half(at)][code_position(at)];
      if (i >= cols) {
        ASSERT_EQ(code, 0);
      } else {
        ASSERT_NEAR(b.scale[at / 32] * code, x[i], 0.5 * b.scale[at / 32] * (1 + 1e-5));
      }
    }
  }
}

TEST(Activations, SumsMatchTheCodes) {
  const std::vector<float> x = random_values(ActivationBlock::kValues, 5);
  AlignedBuffer<ActivationBlock> blocks(1);
  quantize_activations_kernels().back().function(x.data(), x.size(), blocks.data(), 1);
  const ActivationBlock& b = blocks[0];
  int lanes[2][16] = {}, halves[16] = {};
  for (std::size_t i = 0; i < ActivationBlock::kValues; ++i) {
    const int code = b.q[code_half(i)][code_position(i)];
    lanes[code_half(i)][code_position(i) % 64 / 4] += code;
    halves[i / 16] += code;
  }
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_EQ(b.negative_sum[0][i], -lanes[0][i]);
    EXPECT_EQ(b.negative_sum[1][i], -lanes[1][i]);
    EXPECT_EQ(b.lane_scale[i / 8][i % 8 * 2], b.scale[i / 8 * 4 + i % 8 / 2]);
    EXPECT_EQ(b.half_sum[i], b.scale[i / 2] * static_cast<float>(halves[i]));
    const int whole = halves[i / 2 * 2] + halves[i / 2 * 2 + 1];
    EXPECT_EQ(b.negative_group_sum[i / 2], -whole);
    EXPECT_EQ(b.minus_sum[i / 2], b.scale[i / 2] * static_cast<float>(-whole));
  }
}

TEST(Activations, AllTiersGiveTheSameBits) {
  for (std::size_t cols : {8u, 32u, 172u, 256u, 544u, 1536u}) {
    std::vector<float> x = random_values(cols, cols);
    for (std::size_t i = 0; i < cols; i += 3) x[i] *= std::exp2(static_cast<float>(i % 40) - 20);
    std::fill_n(x.data(), std::min<std::size_t>(cols, 32), 0.0f);
    const std::size_t count = activation_blocks(cols);
    AlignedBuffer<ActivationBlock> expected(count), blocks(count);
    std::memset(static_cast<void*>(expected.data()), 0, expected.size_bytes());
    quantize_activations_kernels().back().function(x.data(), cols, expected.data(), 1);
    for (const auto& kernel : quantize_activations_kernels()) {
      if (!includes(supported_isas().back(), kernel.isa)) continue;
      std::memset(static_cast<void*>(blocks.data()), 0, blocks.size_bytes());  // the padding too
      kernel.function(x.data(), cols, blocks.data(), 1);
      EXPECT_EQ(std::memcmp(blocks.data(), expected.data(), blocks.size_bytes()), 0) << kernel.name << " " << cols;
    }
  }
}

TEST(Activations, NotANumberShowsInTheScale) {
  for (const auto& kernel : quantize_activations_kernels()) {
    if (!includes(supported_isas().back(), kernel.isa)) continue;
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
      std::vector<float> x = random_values(256, 1);
      x[77] = bad;
      AlignedBuffer<ActivationBlock> blocks(1);
      kernel.function(x.data(), x.size(), blocks.data(), 1);
      EXPECT_FALSE(std::isfinite(blocks[0].scale[2])) << kernel.name;
      EXPECT_TRUE(std::isfinite(blocks[0].scale[1])) << kernel.name;
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
