#include "kernels/attention/attention.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "gguf/blocks.h"

namespace kvant::kernels {
namespace {

std::vector<float> normals(std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

/// A page of encoded vectors at an address that is only as aligned as blocks are, and their values.
struct Page {
  std::size_t offset;
  std::vector<std::byte> bytes;
  std::vector<float> values;
  std::size_t row_bytes;

  Page(gguf::TensorType type, std::size_t dims, std::uint64_t seed)
      : offset(type == gguf::TensorType::f32 ? 4 : 2),
        bytes(offset + gguf::row_bytes(type, kPageTokens * dims)),
        values(normals(kPageTokens * dims, seed)),
        row_bytes(gguf::row_bytes(type, dims)) {
    gguf::quantize(type, values, data());
    gguf::dequantize(type, data(), values);
  }
  std::byte* data() { return bytes.data() + offset; }
};

template <class Test>
void for_each_kernel(Test test) {
  for (const auto& tier : attention_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (const TypeKernels& kernels : tier.function->types) {
      SCOPED_TRACE(fmt::format("{}/{}", gguf::info(kernels.type).name, tier.name));
      test(kernels);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Attention, DecodesAsTheReference) {
  for_each_kernel([](const TypeKernels& kernels) {
    Page page(kernels.type, 96, 3);
    std::vector<float> out(page.values.size() + 1, 9.0F);
    kernels.decode(page.data(), page.values.size(), out.data());
    for (std::size_t i = 0; i < page.values.size(); ++i) {
      // d * q + m is rounded once here and twice by the reference, which can differ by an ulp of the larger term.
      ASSERT_NEAR(out[i], page.values[i], 0x1p-24F * 8) << i;
      if (kernels.type != gguf::TensorType::q4_1 && kernels.type != gguf::TensorType::q5_1) {
        ASSERT_EQ(out[i], page.values[i]) << i;
      }
    }
    EXPECT_EQ(out.back(), 9.0F);
  });
}

TEST(Attention, ScoresMatchDouble) {
  for_each_kernel([](const TypeKernels& kernels) {
    for (std::size_t dims : {32U, 96U, 128U, 256U}) {
      Page page(kernels.type, dims, dims);
      for (std::size_t rows : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U, 13U}) {
        for (std::size_t tokens : {1U, 2U, 31U, 63U, 64U}) {
          const auto q = normals(rows * dims, rows);
          std::vector<float> logits(rows * kPageTokens + 1, 9.0F);
          kernels.score({q.data(), rows, dims, page.data(), tokens, logits.data()});
          for (std::size_t i = 0; i < rows * tokens; ++i) {
            const std::size_t r = i / tokens;
            const std::size_t t = i % tokens;
            double sum = 0;
            double magnitude = 0;
            for (std::size_t j = 0; j < dims; ++j) {
              const double product =
                  static_cast<double>(q[r * dims + j]) * static_cast<double>(page.values[t * dims + j]);
              sum += product;
              magnitude += std::abs(product);
            }
            ASSERT_NEAR(static_cast<double>(logits[r * kPageTokens + t]), sum, magnitude * 0x1p-24 * 16)
                << dims << ' ' << rows << ' ' << tokens << ' ' << i;
          }
          ASSERT_EQ(logits.back(), 9.0F);
        }
      }
    }
  });
}

TEST(Attention, MixMatchesDoubleAndReadsOnlyItsTokens) {
  for_each_kernel([](const TypeKernels& kernels) {
    for (std::size_t dims : {32U, 96U, 256U}) {
      for (std::size_t tokens : {1U, 31U, 64U}) {
        Page page(kernels.type, dims, dims);
        std::memset(page.data() + tokens * page.row_bytes, 0xff, (kPageTokens - tokens) * page.row_bytes);  // NaNs
        for (std::size_t rows : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U, 9U, 17U}) {
          const auto weights = normals(rows * kPageTokens, rows);
          const auto before = normals(rows * dims + 1, 6);
          auto out = before;
          kernels.mix({weights.data(), rows, dims, page.data(), tokens, out.data()});
          for (std::size_t i = 0; i < rows * dims; ++i) {
            const std::size_t r = i / dims;
            double sum = static_cast<double>(before[i]);
            double magnitude = std::abs(sum);
            for (std::size_t t = 0; t < tokens; ++t) {
              const double product = static_cast<double>(weights[r * kPageTokens + t]) *
                                     static_cast<double>(page.values[t * dims + i % dims]);
              sum += product;
              magnitude += std::abs(product);
            }
            ASSERT_NEAR(static_cast<double>(out[i]), sum, magnitude * 0x1p-24 * 16)
                << dims << ' ' << rows << ' ' << tokens << ' ' << i;
          }
          ASSERT_EQ(out.back(), before.back());
        }
      }
    }
  });
}

/// Bytes that end where memory ends.
class Edge {
 public:
  explicit Edge(std::size_t bytes)
      : unit_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))), mapped_((bytes / unit_ + 2) * unit_) {
    base_ = static_cast<std::byte*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    KVANT_CHECK(base_ != MAP_FAILED && mprotect(base_ + mapped_ - unit_, unit_, PROT_NONE) == 0,
                ErrorCode::out_of_memory, "test: no memory for {} bytes", bytes);
    data = base_ + mapped_ - unit_ - bytes;
  }
  Edge(const Edge&) = delete;
  ~Edge() { munmap(base_, mapped_); }

  std::byte* data;

 private:
  std::size_t unit_, mapped_;
  std::byte* base_;
};

TEST(Attention, ReadsNothingBehindItsTokens) {
  for_each_kernel([](const TypeKernels& kernels) {
    for (const std::size_t dims : {32U, 128U}) {
      const std::size_t row_bytes = gguf::row_bytes(kernels.type, dims);
      for (std::size_t tokens = 1; tokens <= 9; ++tokens) {
        const Edge keys((tokens + kScoreTokens - 1) / kScoreTokens * kScoreTokens * row_bytes);
        const Edge values(tokens * row_bytes);
        for (std::size_t rows = 1; rows <= 9; ++rows) {
          const std::vector<float> q(rows * dims), weights(rows * kPageTokens);
          std::vector<float> logits(rows * kPageTokens, 1.0F), out(std::max(rows, tokens) * dims);
          kernels.score({q.data(), rows, dims, keys.data, tokens, logits.data()});
          EXPECT_EQ(logits[tokens - 1], 0.0F);
          kernels.mix({weights.data(), rows, dims, values.data, tokens, out.data()});
          EXPECT_EQ(out[0], 0.0F);
          kernels.decode(values.data, tokens * dims, out.data());
        }
      }
    }
  });
}

TEST(Attention, RowsDoNotDependOnTheirNeighbours) {
  constexpr std::size_t kRows = 11;
  constexpr std::size_t kDims = 96;
  for_each_kernel([](const TypeKernels& kernels) {
    Page page(kernels.type, kDims, 1);
    const auto q = normals(kRows * kDims, 2);
    const auto weights = normals(kRows * kPageTokens, 3);
    std::vector<float> logits(kRows * kPageTokens), out(kRows * kDims, 1.0F);
    kernels.score({q.data(), kRows, kDims, page.data(), kPageTokens, logits.data()});
    kernels.mix({weights.data(), kRows, kDims, page.data(), kPageTokens, out.data()});
    for (std::size_t r = 0; r < kRows; ++r) {
      std::vector<float> logits_alone(kPageTokens), out_alone(kDims, 1.0F);
      kernels.score({&q[r * kDims], 1, kDims, page.data(), kPageTokens, logits_alone.data()});
      kernels.mix({&weights[r * kPageTokens], 1, kDims, page.data(), kPageTokens, out_alone.data()});
      ASSERT_TRUE(std::equal(logits_alone.begin(), logits_alone.end(), &logits[r * kPageTokens])) << r;
      ASSERT_TRUE(std::equal(out_alone.begin(), out_alone.end(), &out[r * kDims])) << r;
    }
  });
}

template <class Test>
void for_each_tier(Test test) {
  for (const auto& tier : attention_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    SCOPED_TRACE(tier.name);
    test(*tier.function);
  }
}

TEST(Attention, SoftmaxWeightsAreExponentialsOverTheWholeRange) {
  for_each_tier([](const AttentionKernels& kernels) {
    for (const std::size_t pages : {1U, 3U, 8U}) {
      for (float step : {0.0F, 1e-6F, 0.01F, 0.3F, 1.0F, 1.7F, 30.0F}) {
        const std::size_t visible = pages * kPageTokens;
        std::vector<float> logits(visible);
        for (std::size_t t = 0; t < visible; ++t) logits[(t + 77) % visible] = 3.0F - step * static_cast<float>(t);
        const auto x = logits;
        SoftmaxState state{9, 9};
        kernels.softmax({1, pages, 2.0F, &visible, logits.data(), &state});
        EXPECT_EQ(state.max, 6.0F);
        double sum = 0;
        for (std::size_t t = 0; t < visible; ++t) {
          const double expected = std::exp(2 * (static_cast<double>(x[t]) - 3));
          sum += expected;
          ASSERT_NEAR(static_cast<double>(logits[t]), expected, expected * 1e-6 + 0x1p-148) << step << ' ' << t;
        }
        EXPECT_NEAR(static_cast<double>(state.sum), sum, sum * 1e-6);
      }
    }
  });
}

TEST(Attention, SoftmaxHidesTokensAndRowsMaySeeNothing) {
  constexpr std::size_t kRows = 4, kPages = 2;
  for_each_tier([](const AttentionKernels& kernels) {
    const std::size_t visible[kRows] = {5, 0, kPageTokens, kPageTokens + 9};
    std::vector<float> logits(kPages * kRows * kPageTokens);
    const auto at = [&](std::size_t row, std::size_t token) -> float& {
      return logits[(token / kPageTokens * kRows + row) * kPageTokens + token % kPageTokens];
    };
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t t = 0; t < kPages * kPageTokens; ++t) at(r, t) = t < visible[r] ? 1.0F : std::nanf("");
    }
    SoftmaxState states[kRows] = {{3, 3}, {2.5F, 7.0F}, {}, {}};
    kernels.softmax({kRows, kPages, 1.0F, visible, logits.data(), states});
    for (std::size_t r = 0; r < kRows; ++r) {
      EXPECT_EQ(states[r].max, visible[r] > 0 ? 1.0F : SoftmaxState{}.max) << r;
      EXPECT_EQ(states[r].sum, static_cast<float>(visible[r])) << r;
      for (std::size_t t = 0; t < kPages * kPageTokens; ++t) {
        EXPECT_EQ(at(r, t), t < visible[r] ? 1.0F : 0.0F) << r << ' ' << t;
      }
    }
  });
}

TEST(Attention, MergeJoinsTwoStretches) {
  for_each_tier([](const AttentionKernels& kernels) {
    const auto a = normals(64, 1);
    const auto b = normals(64, 2);
    SoftmaxState total;
    std::vector<float> out(64, std::nanf(""));  // of an empty state: not read
    kernels.merge(total, out.data(), {}, b.data(), 64);
    EXPECT_EQ(total.sum, 0.0F);
    kernels.merge(total, out.data(), {2.0F, 3.0F}, a.data(), 64);
    EXPECT_EQ(out, a);
    kernels.merge(total, out.data(), {3.0F, 5.0F}, b.data(), 64);
    const float keep = std::exp(-1.0F);
    EXPECT_EQ(total.max, 3.0F);
    EXPECT_NEAR(total.sum, 5 + 3 * keep, 1e-6F);
    for (std::size_t i = 0; i < 64; ++i) EXPECT_NEAR(out[i], a[i] * keep + b[i], 1e-6F) << i;
    const auto before = out;
    kernels.merge(total, out.data(), {}, a.data(), 64);
    EXPECT_EQ(out, before);
  });
}

TEST(Attention, OtherTypesAreRefused) {
  EXPECT_THROW(attention(Isa::scalar).of(gguf::TensorType::q4_k), Error);
  EXPECT_EQ(attention(Isa::scalar).of(gguf::TensorType::q5_1).type, gguf::TensorType::q5_1);
}

}  // namespace
}  // namespace kvant::kernels
