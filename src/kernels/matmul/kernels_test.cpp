#include "kernels/matmul/kernels.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/matmul/weights_for_test.h"

namespace kvant::kernels {
namespace {

bool runs(Isa isa) {
  const auto isas = supported_isas();
  return std::find(isas.begin(), isas.end(), isa) != isas.end();
}

/// Decoded value i of quantized activations.
double value(const ActivationBlock* blocks, std::size_t i) {
  const ActivationBlock& b = blocks[i / ActivationBlock::kValues];
  const std::size_t at = i % ActivationBlock::kValues;
  return static_cast<double>(b.scale[at / 32]) * b.q[code_half(at)][code_position(at)];
}

/// sum |w| |x| with each |w| taken as 3 times the largest of its block: an upper bound on the magnitude of the terms
/// that a kernel adds, the parts of w that cancel (offsets, mins) included.
double term_sum(const std::vector<float>& w, const double* x, std::size_t row, std::size_t cols) {
  double total = 0;
  for (std::size_t at = 0; at < cols; at += 32) {
    double largest = 0, sum = 0;
    for (std::size_t i = at; i < std::min(cols, at + 32); ++i) {
      largest = std::max(largest, std::abs(static_cast<double>(w[row * cols + i])));
      sum += std::abs(x[i]);
    }
    total += 3 * largest * sum;
  }
  return total;
}

class GemvKernels : public testing::TestWithParam<WeightKernel<Gemv>> {};

TEST_P(GemvKernels, MatchesTheProductInDouble) {
  const auto& kernel = GetParam();
  if (!runs(kernel.isa)) GTEST_SKIP() << "needs " << name(kernel.isa);
  const bool floats = gguf::info(kernel.type).block_values == 1;
  for (std::size_t cols : columns_for(kernel.type)) {
    for (std::size_t rows : {1, 3, 17}) {
      const GuardedBytes bytes(rows * gguf::row_bytes(kernel.type, cols));
      fill_weights(kernel.type, rows * cols, rows + cols, bytes.data());
      const std::vector<float> w = decoded({kernel.type, bytes.data(), rows, cols});
      for (std::size_t n : {1, 2, 5, 16}) {
        const std::vector<float> x = random_values(n * cols, n);
        AlignedBuffer<ActivationBlock> blocks(n * activation_blocks(cols));
        std::vector<double> seen(n * cols);  // the activations that the kernel multiplies
        for (std::size_t r = 0; r < n; ++r) {
          ActivationBlock* row = blocks.data() + r * activation_blocks(cols);
          quantize_activations_kernels().back().function(x.data() + r * cols, cols, row, 1);
          for (std::size_t i = 0; i < cols; ++i) {
            seen[r * cols + i] = floats ? static_cast<double>(x[r * cols + i]) : value(row, i);
          }
        }
        const std::size_t stride = rows + 2;
        const float nan = std::numeric_limits<float>::quiet_NaN();
        std::vector<float> y(n * stride, nan);
        kernel.function({bytes.data(), rows, cols, {x.data(), n, cols}, blocks.data(), y.data(), stride});
        // A lane adds at most cols / 64 + 5 terms, then 16 lanes are added: depth of the sum + 2 roundings per term.
        const double roundings = static_cast<double>(cols) / 32 + 16;
        for (std::size_t r = 0; r < n; ++r) {
          for (std::size_t o = 0; o < rows; ++o) {
            double expected = 0;
            for (std::size_t i = 0; i < cols; ++i)
              expected += seen[r * cols + i] * static_cast<double>(w[o * cols + i]);
            const double tolerance = roundings * kEpsilon * term_sum(w, seen.data() + r * cols, o, cols);
            ASSERT_NEAR(y[r * stride + o], expected, tolerance)
                << rows << "x" << cols << " n " << n << " at " << r << "," << o;
          }
          for (std::size_t o = rows; o < stride; ++o) ASSERT_TRUE(std::isnan(y[r * stride + o]));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemvKernels, testing::ValuesIn(gemv_kernels().begin(), gemv_kernels().end()),
                         [](const auto& i) {
                           std::string s(i.param.name);
                           std::replace(s.begin(), s.end(), '/', '_');
                           return s;
                         });

class DecodeKernels : public testing::TestWithParam<WeightKernel<DecodeValues>> {};

TEST_P(DecodeKernels, GivesTheBitsOfTheReference) {
  const auto& kernel = GetParam();
  if (!runs(kernel.isa)) GTEST_SKIP() << "needs " << name(kernel.isa);
  for (std::size_t values : columns_for(kernel.type)) {
    const GuardedBytes bytes(gguf::row_bytes(kernel.type, values));
    fill_weights(kernel.type, values, values, bytes.data());
    std::vector<float> expected(values), out(values + 1, -7.0f);
    gguf::dequantize(kernel.type, bytes.data(), expected);
    kernel.function(bytes.data(), values, out.data());
    for (std::size_t i = 0; i < values; ++i) ASSERT_EQ(out[i], expected[i]) << "value " << i << " of " << values;
    EXPECT_EQ(out[values], -7.0f);
  }
}

INSTANTIATE_TEST_SUITE_P(All, DecodeKernels, testing::ValuesIn(decode_kernels().begin(), decode_kernels().end()),
                         [](const auto& i) {
                           std::string s(i.param.name);
                           std::replace(s.begin(), s.end(), '/', '_');
                           return s;
                         });

class Tiles : public testing::TestWithParam<Implementation<const Tile*>> {};

TEST_P(Tiles, MatchTheProductInDouble) {
  const Tile& tile = *GetParam().function;
  if (!runs(GetParam().isa) || (tile.bf16 && !has_avx512_bf16())) GTEST_SKIP() << "needs " << GetParam().name;
  for (std::size_t depth : {1, 2, 31, 64, 256}) {
    for (std::size_t columns : {std::size_t{1}, std::size_t{16}, tile.columns}) {
      const std::vector<float> w = random_values(tile.columns * depth, depth);
      AlignedBuffer<std::byte> panel(tile.columns * round_up(depth, 2) * tile.element_bytes());
      for (std::size_t unit = 0; unit < tile.columns; unit += Tile::kUnit) {
        tile.pack(w.data() + unit * depth, depth, depth, unit, panel.data());
      }
      for (std::size_t n : {1, 2, 5, 8, 17}) {
        const std::size_t stride = tile.bf16 ? round_up(depth, 16) : depth;
        const std::vector<float> x = random_values(n * depth, n + depth);
        AlignedBuffer<std::byte> operand(n * stride * tile.element_bytes());
        for (std::size_t r = 0; r < n; ++r) {
          std::byte* to = operand.data() + r * stride * tile.element_bytes();
          if (tile.bf16) {
            tile.convert(x.data() + r * depth, depth, reinterpret_cast<Bf16*>(to));
          } else {
            std::memcpy(to, x.data() + r * depth, depth * sizeof(float));
          }
        }
        const auto seen = [&](float v) { return static_cast<double>(tile.bf16 ? to_float(to_bf16(v)) : v); };
        std::vector<float> y(n * (columns + 1), 3.0f);
        for (bool accumulate : {false, true}) {
          tile.multiply({operand.data(), stride, n, panel.data(), depth, y.data(), columns + 1, columns, accumulate});
          const double times = accumulate ? 2 : 1;
          for (std::size_t r = 0; r < n; ++r) {
            for (std::size_t c = 0; c < columns; ++c) {
              double expected = 0, sum = 0;
              for (std::size_t k = 0; k < depth; ++k) {
                const double term = seen(x[r * depth + k]) * seen(w[c * depth + k]);
                expected += term;
                sum += std::abs(term);
              }
              // A chain of `depth` roundings of partial sums; bf16 products round each addition of a pair too.
              ASSERT_NEAR(y[r * (columns + 1) + c], times * expected,
                          times * static_cast<double>(depth + 2) * kEpsilon * sum)
                  << depth << " deep, " << columns << " columns, row " << r << " of " << n << ", column " << c;
            }
            ASSERT_EQ(y[r * (columns + 1) + columns], 3.0f);
          }
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Tiles, testing::ValuesIn(tiles().begin(), tiles().end()), [](const auto& i) {
  std::string s(i.param.name);
  std::replace(s.begin(), s.end(), '/', '_');
  return s;
});

}  // namespace
}  // namespace kvant::kernels
