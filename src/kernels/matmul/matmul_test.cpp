#include "kernels/matmul/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/matmul/weights_for_test.h"

namespace kvant::kernels {
namespace {

using gguf::TensorType;

std::vector<float> product(Isa isa, Precision precision, int threads, const WeightView& w, std::span<const float> x) {
  ThreadPool pool(threads);
  Matmul matmul(isa, precision);
  const std::size_t n = x.size() / w.cols;
  std::vector<float> y(n * w.rows, std::numeric_limits<float>::quiet_NaN());
  const Matmul::Product p{w, {y.data(), n, w.rows}};
  matmul(pool, {x.data(), n, w.cols}, {&p, 1});
  return y;
}

/// One type at every tier and in both precisions.
class MatmulTypes : public testing::TestWithParam<TensorType> {
 protected:
  struct Case {
    Isa isa;
    Precision precision;
  };
  static std::vector<Case> cases() {
    std::vector<Case> all;
    for (Isa isa : supported_isas()) {
      all.push_back({isa, Precision::reference});
      all.push_back({isa, Precision::fast});
    }
    return all;
  }
};

/// Bounds on |y - x W^T|. reference: a chain of at most 256 products and cols / 256 sums of them, each with a rounding.
/// fast: int8 activations, up to half a step (max / 127) off in each group of 32, or bf16 of both, 2^-8 relative each;
/// the larger of the two.
double bound(Precision precision, const float* x, const float* w, std::size_t cols) {
  double magnitude = 0, int8 = 0;
  for (std::size_t at = 0; at < cols; at += 32) {
    double x_max = 0, w_sum = 0, w_max = 0, x_sum = 0;
    for (std::size_t i = at; i < std::min(cols, at + 32); ++i) {
      x_max = std::max(x_max, std::abs(static_cast<double>(x[i])));
      x_sum += std::abs(static_cast<double>(x[i]));
      w_max = std::max(w_max, std::abs(static_cast<double>(w[i])));
      w_sum += std::abs(static_cast<double>(w[i]));
      magnitude += std::abs(static_cast<double>(x[i]) * static_cast<double>(w[i]));
    }
    int8 += 0.501 * x_max / 127 * w_sum + 400 * kEpsilon * 3 * w_max * x_sum;
  }
  const double roundings = 256 + static_cast<double>(cols) / 256 + 2;
  if (precision == Precision::reference) return roundings * kEpsilon * magnitude;
  return std::max(int8, (2.01 * 0x1p-8 + 600 * kEpsilon) * magnitude);
}

TEST_P(MatmulTypes, MatchesTheProductInDouble) {
  for (std::size_t cols : columns_for(GetParam())) {
    for (std::size_t rows : {1u, 17u, 33u, 50u}) {
      const GuardedBytes bytes(rows * gguf::row_bytes(GetParam(), cols));
      fill_weights(GetParam(), rows * cols, 7 * rows + cols, bytes.data());
      const WeightView weights{GetParam(), bytes.data(), rows, cols};
      const std::vector<float> w = decoded(weights);
      for (std::size_t n : {1u, 16u, 17u, 70u}) {
        if (cols > 600 && n > 17 && rows != 17) continue;
        const std::vector<float> x = random_values(n * cols, n);
        for (const Case& c : cases()) {
          const std::vector<float> y = product(c.isa, c.precision, 2, weights, x);
          for (std::size_t r = 0; r < n; ++r) {
            for (std::size_t o = 0; o < rows; ++o) {
              double expected = 0;
              for (std::size_t i = 0; i < cols; ++i) {
                expected += static_cast<double>(x[r * cols + i]) * static_cast<double>(w[o * cols + i]);
              }
              ASSERT_NEAR(y[r * rows + o], expected, bound(c.precision, &x[r * cols], &w[o * cols], cols))
                  << name(c.isa) << (c.precision == Precision::fast ? " fast " : " reference ") << rows << "x" << cols
                  << " n " << n << " at " << r << "," << o;
            }
          }
        }
      }
    }
  }
}

TEST_P(MatmulTypes, ResultsDoNotDependOnThreads) {
  const std::size_t rows = 200, cols = 512;
  std::vector<std::byte> bytes(rows * gguf::row_bytes(GetParam(), cols));
  fill_weights(GetParam(), rows * cols, 3, bytes.data());
  const WeightView weights{GetParam(), bytes.data(), rows, cols};
  for (std::size_t n : {1u, 5u, 20u, 80u}) {
    const std::vector<float> x = random_values(n * cols, n);
    for (const Case& c : cases()) {
      const std::vector<float> one = product(c.isa, c.precision, 1, weights, x);
      EXPECT_EQ(one, product(c.isa, c.precision, 2, weights, x)) << name(c.isa) << " n " << n;
      EXPECT_EQ(one, product(c.isa, c.precision, 3, weights, x)) << name(c.isa) << " n " << n;
    }
  }
}

TEST_P(MatmulTypes, RowsDoNotDependOnTheirBatch) {
  const std::size_t rows = 50, cols = 512, total = 24, most_rows = 71;
  std::vector<std::byte> bytes(rows * gguf::row_bytes(GetParam(), cols));
  fill_weights(GetParam(), rows * cols, 4, bytes.data());
  const WeightView weights{GetParam(), bytes.data(), rows, cols};
  const std::vector<float> x = random_values(most_rows * cols, 9);
  for (const Case& c : cases()) {
    const std::size_t most = c.precision == Precision::reference ? total : Matmul::kDecodeRows;
    const std::vector<float> all = product(c.isa, c.precision, 1, weights, std::span(x).first(most * cols));
    for (std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{7}}) {
      for (std::size_t r = 0; r + n <= most; r += n) {
        const std::vector<float> some =
            product(c.isa, c.precision, 1, weights, std::span(x).subspan(r * cols, n * cols));
        ASSERT_TRUE(std::equal(some.begin(), some.end(), all.begin() + static_cast<std::ptrdiff_t>(r * rows)))
            << name(c.isa) << " rows " << r << " to " << r + n;
      }
    }
    if (c.precision == Precision::reference) continue;
    // More rows than the decode kernels take, and more than those on int8 activations: again of any number.
    for (std::size_t n : {std::size_t{17}, std::size_t{64}}) {
      const std::vector<float> more = product(c.isa, c.precision, 1, weights, std::span(x).first((n + 7) * cols));
      const std::vector<float> fewer =
          product(c.isa, c.precision, 1, weights, std::span(x).subspan(5 * cols, n * cols));
      ASSERT_TRUE(std::equal(fewer.begin(), fewer.end(), more.begin() + static_cast<std::ptrdiff_t>(5 * rows)))
          << name(c.isa) << " from " << n << " rows on";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, MatmulTypes, testing::ValuesIn(weight_types()),
                         [](const auto& i) { return std::string(gguf::info(i.param).name); });

TEST(Matmul, SharesXAmongProductsAndKeepsToTheirRows) {
  const std::size_t cols = 256, n = 5;
  const TensorType types[] = {TensorType::q4_k, TensorType::f16, TensorType::q6_k};
  const std::size_t rows[] = {40, 7, 65};
  // x with padded rows that are not numbers, y in columns of one matrix.
  std::vector<float> x(n * 300, std::numeric_limits<float>::quiet_NaN());
  const std::vector<float> values = random_values(n * cols, 2);
  for (std::size_t r = 0; r < n; ++r) std::copy_n(&values[r * cols], cols, &x[r * 300]);
  for (Isa isa : supported_isas()) {
    for (Precision precision : {Precision::reference, Precision::fast}) {
      std::vector<float> y(n * 130, -5.0f);
      std::vector<std::vector<std::byte>> bytes;
      std::vector<Matmul::Product> products;
      std::size_t first = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        bytes.emplace_back(rows[i] * gguf::row_bytes(types[i], cols));
        fill_weights(types[i], rows[i] * cols, i, bytes.back().data());
        products.push_back({{types[i], bytes.back().data(), rows[i], cols}, {y.data() + first, n, rows[i], 130}});
        first += rows[i] + 1;
      }
      ThreadPool pool(2);
      Matmul matmul(isa, precision);
      matmul(pool, {x.data(), n, cols, 300}, products);
      first = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        const std::vector<float> alone = product(isa, precision, 1, products[i].weights, values);
        for (std::size_t r = 0; r < n; ++r) {
          for (std::size_t o = 0; o < rows[i]; ++o) ASSERT_EQ(y[r * 130 + first + o], alone[r * rows[i] + o]);
          ASSERT_EQ(y[r * 130 + first + rows[i]], -5.0f);
        }
        first += rows[i] + 1;
      }
      EXPECT_LT(matmul.workspace_bytes(), std::size_t{1} << 20);
    }
  }
}

TEST(Matmul, NotANumberInActivationsReachesTheResult) {
  const std::size_t rows = 20, cols = 512;
  std::vector<std::byte> bytes(rows * gguf::row_bytes(TensorType::q4_k, cols));
  fill_weights(TensorType::q4_k, rows * cols, 1, bytes.data());
  std::vector<float> x = random_values(2 * cols, 1);
  x[cols + 300] = std::numeric_limits<float>::quiet_NaN();
  for (Isa isa : supported_isas()) {
    const auto y = product(isa, Precision::fast, 1, {TensorType::q4_k, bytes.data(), rows, cols}, x);
    for (std::size_t o = 0; o < rows; ++o) {
      EXPECT_TRUE(std::isfinite(y[o]));
      EXPECT_TRUE(std::isnan(y[rows + o])) << name(isa);
    }
  }
}

TEST(Matmul, NoRowsIsNoWork) {
  ThreadPool pool(1);
  Matmul matmul(active_isa(), Precision::fast);
  matmul(pool, {nullptr, 0, 64}, {});
  EXPECT_EQ(matmul.workspace_bytes(), 0u);
}

}  // namespace
}  // namespace kvant::kernels
