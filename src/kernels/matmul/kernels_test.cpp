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

/// Kernel names with '_' for '/', as gtest wants.
std::string test_name(const auto& i) {
  std::string s(i.param.name);
  std::replace(s.begin(), s.end(), '/', '_');
  return s;
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

/// Random operands of a product and the activations that a kernel on int8 activations, or on floats, multiplies.
struct Operands {
  Operands(gguf::TensorType type, std::size_t rows, std::size_t cols, std::size_t n)
      : bytes(rows * gguf::row_bytes(type, cols)), x(random_values(n * cols, n)), blocks(n * activation_blocks(cols)) {
    fill_weights(type, rows * cols, rows + cols, bytes.data());
    w = decoded({type, bytes.data(), rows, cols});
    const bool floats = gguf::info(type).block_values == 1;
    for (std::size_t r = 0; r < n; ++r) {
      ActivationBlock* row = blocks.data() + r * activation_blocks(cols);
      quantize_activations_kernels().back().function(x.data() + r * cols, cols, row, 1);
      for (std::size_t i = 0; i < cols; ++i) {
        seen.push_back(floats ? static_cast<double>(x[r * cols + i]) : value(row, i));
      }
    }
  }
  /// Checks y, and that nothing was written between its rows.
  void check(const std::vector<float>& y, std::size_t stride, std::size_t rows, std::size_t cols) const {
    // A lane adds at most cols / 16 + 5 terms, then up to 16 lanes are added: depth of the sum + 2 roundings per term.
    const double roundings = static_cast<double>(cols) / 16 + 16;
    for (std::size_t r = 0; r < y.size() / stride; ++r) {
      for (std::size_t o = 0; o < rows; ++o) {
        double expected = 0;
        for (std::size_t i = 0; i < cols; ++i) expected += seen[r * cols + i] * static_cast<double>(w[o * cols + i]);
        const double tolerance = roundings * kEpsilon * term_sum(w, seen.data() + r * cols, o, cols);
        ASSERT_NEAR(y[r * stride + o], expected, tolerance) << rows << "x" << cols << " at " << r << "," << o;
      }
      for (std::size_t o = rows; o < stride; ++o) ASSERT_TRUE(std::isnan(y[r * stride + o]));
    }
  }
  GuardedBytes bytes;
  std::vector<float> w, x;
  AlignedBuffer<ActivationBlock> blocks;
  std::vector<double> seen;
};

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class GemvKernels : public testing::TestWithParam<WeightKernel<Gemv>> {};

TEST_P(GemvKernels, MatchesTheProductInDouble) {
  const auto& kernel = GetParam();
  if (!runs(kernel.isa)) GTEST_SKIP() << "needs " << name(kernel.isa);
  for (std::size_t cols : columns_for(kernel.type)) {
    for (std::size_t rows : {1u, 3u, 17u}) {
      for (std::size_t n : {1u, 2u, 5u, 16u}) {
        const Operands o(kernel.type, rows, cols, n);
        const std::size_t stride = rows + 2;
        std::vector<float> y(n * stride, kNaN);
        kernel.function({o.bytes.data(), rows, cols, {o.x.data(), n, cols}, o.blocks.data(), y.data(), stride});
        o.check(y, stride, rows, cols);
      }
    }
  }
}

TEST_P(GemvKernels, StreamsDoNotChangeABit) {
  const auto& kernel = GetParam();
  if (!runs(kernel.isa)) GTEST_SKIP() << "needs " << name(kernel.isa);
  for (std::size_t cols : columns_for(kernel.type)) {
    for (std::size_t apart : {1u, 2u, 5u}) {
      const std::size_t rows = GemvArgs::kStreams * apart;
      for (std::size_t n : {1u, 3u}) {
        const Operands o(kernel.type, rows, cols, n);
        std::vector<float> one(n * rows, kNaN), streams(n * rows, kNaN);
        GemvArgs args{o.bytes.data(), rows, cols, {o.x.data(), n, cols}, o.blocks.data(), one.data(), rows};
        kernel.function(args);
        const std::size_t row_bytes = o.bytes.size() / rows;
        args.streams = GemvArgs::kStreams;
        args.apart = apart;
        for (std::size_t first = 0; first < apart; first += args.rows) {  // tasks that go on with streams
          args.rows = std::min<std::size_t>(2, apart - first);
          args.weights = o.bytes.data() + first * row_bytes;
          args.y = streams.data() + first;
          kernel.function(args);
        }
        ASSERT_EQ(streams, one) << rows << "x" << cols << " by " << n;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemvKernels, testing::ValuesIn(gemv_kernels().begin(), gemv_kernels().end()),
                         [](const auto& i) { return test_name(i); });

class GemmKernels : public testing::TestWithParam<WeightKernel<Gemm>> {};
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GemmKernels);

TEST_P(GemmKernels, MatchesTheProductInDouble) {
  const auto& kernel = GetParam();
  if (!runs(kernel.isa)) GTEST_SKIP() << "needs " << name(kernel.isa);
  for (std::size_t cols : columns_for(kernel.type)) {
    for (std::size_t rows : {1u, 17u, 48u}) {
      for (std::size_t n : {1u, 2u, 3u, 17u, 20u}) {
        const Operands o(kernel.type, rows, cols, n);
        const std::size_t count = activation_blocks(cols);
        AlignedBuffer<ActivationBlock> by_block(n * count);
        for (std::size_t r = 0; r < n; ++r) {
          for (std::size_t b = 0; b < count; ++b) by_block[b * n + r] = o.blocks[r * count + b];
        }
        const std::size_t stride = rows + 2;
        std::vector<float> y(n * stride, kNaN);
        AlignedBuffer<std::byte> scratch(GemmArgs::scratch_bytes(n));
        std::fill(scratch.begin(), scratch.end(), std::byte{0xff});
        kernel.function({o.bytes.data(), rows, cols, by_block.data(), n, y.data(), stride, scratch.data()});
        o.check(y, stride, rows, cols);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemmKernels, testing::ValuesIn(gemm_kernels().begin(), gemm_kernels().end()),
                         [](const auto& i) { return test_name(i); });

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
                         [](const auto& i) { return test_name(i); });

class Tiles : public testing::TestWithParam<Implementation<const Tile*>> {};

/// Rows of x as a tile reads them: what no row or value takes is not a number, where the tile may not count on zeros.
AlignedBuffer<std::byte> operand_of(const Tile& tile, const std::vector<float>& x, std::size_t n, std::size_t depth) {
  AlignedBuffer<std::byte> operand(tile.bf16 ? tile.piece(n) * sizeof(Bf16) : x.size() * sizeof(float));
  std::fill(operand.begin(), operand.end(), std::byte{0xff});
  if (!tile.bf16) std::memcpy(operand.data(), x.data(), x.size() * sizeof(float));
  for (std::size_t r = 0; r < n && tile.bf16; ++r) {
    tile.convert(x.data() + r * depth, depth, tile.piece(n), reinterpret_cast<Bf16*>(operand.data()) + tile.row(r));
  }
  return operand;
}

TEST_P(Tiles, MatchTheProductInDouble) {
  const Tile& tile = *GetParam().function;
  if (!runs(GetParam().isa) || (tile.bf16 && !has_avx512_bf16())) GTEST_SKIP() << "needs " << GetParam().name;
  for (std::size_t depth : {1u, 2u, 31u, 64u, 256u}) {
    const std::vector<float> w = random_values(tile.columns * depth, depth);
    AlignedBuffer<std::byte> panel(tile.columns * tile.depth * tile.element_bytes());
    std::fill(panel.begin(), panel.end(), std::byte{0xff});
    for (std::size_t unit = 0; unit < tile.columns; unit += Tile::kUnit) {
      tile.pack(w.data() + unit * depth, depth, depth, unit, panel.data());
    }
    for (std::size_t n : {1u, 2u, 5u, 8u, 17u, 50u}) {
      const std::vector<float> x = random_values(n * depth, n + depth);
      const AlignedBuffer<std::byte> operand = operand_of(tile, x, n, depth);
      const auto seen = [&](float v) { return static_cast<double>(tile.bf16 ? to_float(to_bf16(v)) : v); };
      std::vector<float> sums(n * tile.columns + 1, 3.0f);
      for (bool accumulate : {false, true}) {
        tile.multiply(
            {operand.data(), tile.bf16 ? tile.depth : depth, n, panel.data(), depth, sums.data(), accumulate});
        const double times = accumulate ? 2 : 1;
        for (std::size_t r = 0; r < n; ++r) {
          for (std::size_t c = 0; c < tile.columns; ++c) {
            double expected = 0, sum = 0;
            for (std::size_t k = 0; k < depth; ++k) {
              const double term = seen(x[r * depth + k]) * seen(w[c * depth + k]);
              expected += term;
              sum += std::abs(term);
            }
            // A chain of `depth` roundings of partial sums; bf16 products round each addition of a pair too.
            ASSERT_NEAR(sums[r * tile.columns + c], times * expected,
                        times * static_cast<double>(depth + 2) * kEpsilon * sum)
                << depth << " deep, row " << r << " of " << n << ", column " << c;
          }
        }
        ASSERT_EQ(sums.back(), 3.0f);
      }
    }
  }
}

TEST_P(Tiles, LayOutSeveralPieces) {
  const Tile& tile = *GetParam().function;
  if (!runs(GetParam().isa) || !tile.bf16 || !has_avx512_bf16()) GTEST_SKIP() << "needs " << GetParam().name;
  const std::size_t n = 17, cols = 2 * tile.depth + 5;
  const std::vector<float> x = random_values(n * cols, 1);
  AlignedBuffer<Bf16> laid_out(3 * tile.piece(n));
  for (std::size_t r = 0; r < n; ++r) {
    tile.convert(x.data() + r * cols, cols, tile.piece(n), laid_out.data() + tile.row(r));
  }
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t i = 0; i < round_up(cols, tile.step); ++i) {
      const std::size_t k = i % tile.depth;
      const Bf16 got = laid_out[i / tile.depth * tile.piece(n) + tile.row(r) + k / tile.step * tile.group * tile.step +
                                k % tile.step];
      ASSERT_EQ(to_float(got), i < cols ? to_float(to_bf16(x[r * cols + i])) : 0.0f)
          << "value " << i << " of row " << r;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Tiles, testing::ValuesIn(tiles().begin(), tiles().end()),
                         [](const auto& i) { return test_name(i); });

}  // namespace
}  // namespace kvant::kernels
