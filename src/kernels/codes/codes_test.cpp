#include "kernels/codes/codes.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "kernels/codes/common.h"

namespace kvant::kernels {
namespace {

using codec::PageSide;
using codec::QuantizerKind;
using codec::ScaleFormat;

constexpr double kEps = 0x1p-24;  // of one rounding to float
constexpr std::size_t kMostRows = 13;
constexpr std::size_t kTokenCounts[] = {1, 15, 16, 63, 64};

std::vector<float> normals(std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

const codec::Quantizer& quantizer(QuantizerKind kind, std::size_t dimension, int bits) {
  static std::map<std::tuple<QuantizerKind, std::size_t, int>, codec::Quantizer> known;
  const auto key = std::tuple(kind, dimension, bits);
  const auto found = known.find(key);
  return found != known.end() ? found->second
                              : known.emplace(key, codec::make_quantizer(kind, dimension, bits)).first->second;
}

/// What a page holds and how.
struct Shape {
  QuantizerKind kind;
  int bits;
  std::vector<std::size_t> groups;  // dims of each
  ScaleFormat format;

  std::size_t dims() const {
    std::size_t sum = 0;
    for (const std::size_t g : groups) sum += g;
    return sum;
  }
  CodedPages pages(PageSide side) const {
    CodedPages p{codec::PageLayout(side, dims(), bits, groups.size(), format),
                 make_code_table(quantizer(kind, groups[0], bits)),
                 {}};
    for (std::size_t g = 0; g < groups.size(); ++g) {
      for (std::size_t i = 0; i < groups[g]; i += 32) p.block_groups.push_back(static_cast<std::uint16_t>(g));
    }
    return p;
  }
};

std::vector<Shape> shapes() {
  std::vector<Shape> all;
  for (const auto& groups : std::vector<std::vector<std::size_t>>{{32}, {64}, {64, 16}, {128}, {128, 128}, {32, 64}}) {
    for (const ScaleFormat format : {ScaleFormat::f16, ScaleFormat::log8}) {
      for (int bits = 1; bits <= 6; ++bits) all.push_back({QuantizerKind::lm, bits, groups, format});
      for (int bits = 1; bits <= 8; ++bits) all.push_back({QuantizerKind::uni, bits, groups, format});
    }
  }
  return all;
}

/// A page that ends where memory ends. Tokens from `tokens` on hold random codes and scales that are NaN.
class Page {
 public:
  Page(const Shape& shape, PageSide side, std::size_t tokens) : pages(shape.pages(side)), levels_(kPageTokens) {
    const std::size_t unit = static_cast<std::size_t>(sysconf(_SC_PAGESIZE)), bytes = pages.layout.bytes();
    mapped_ = (bytes + unit - 1) / unit * unit + unit;
    base_ = static_cast<std::byte*>(mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    KVANT_CHECK(base_ != MAP_FAILED && mprotect(base_ + mapped_ - unit, unit, PROT_NONE) == 0, ErrorCode::out_of_memory,
                "test: no memory for a page of {} bytes", bytes);
    data = std::span(base_ + mapped_ - unit - bytes, bytes);
    fill(shape, tokens);
  }
  Page(const Page&) = delete;
  ~Page() { munmap(base_, mapped_); }

  std::size_t group(std::size_t dim) const { return pages.block_groups[dim / 32]; }
  double level(std::size_t token, std::size_t dim) const { return levels_[token][dim]; }
  float scale(std::size_t token, std::size_t g) const {
    return codec::decode_scale(pages.layout.scales(), pages.layout.scale(data, token, g));
  }

  /// Makes a token hold what another one does.
  void copy_token(std::size_t from, std::size_t to) {
    std::vector<std::uint8_t> codes(pages.layout.dims());
    pages.layout.codes(data, from, codes);
    pages.layout.set_codes(data, to, codes);
    for (std::size_t g = 0; g < pages.layout.groups(); ++g) {
      pages.layout.set_scale(data, to, g, pages.layout.scale(data, from, g));
    }
    levels_[to] = levels_[from];
  }

  CodedPages pages;
  std::span<std::byte> data;

 private:
  void fill(const Shape& shape, std::size_t tokens) {
    Random random(tokens);
    for (std::size_t t = 0; t < kPageTokens; ++t) {
      const auto x = normals(shape.dims(), t + 1);
      std::vector<std::uint8_t> codes(shape.dims());
      // Padding stays code 0.
      levels_[t].assign(pages.layout.padded_dims(), quantizer(shape.kind, shape.groups[0], shape.bits).levels[0]);
      for (std::size_t g = 0, first = 0; g < shape.groups.size(); first += shape.groups[g++]) {
        // One table serves all groups of a page: only the scales tell that this is the codebook of another dimension.
        const auto& q = quantizer(shape.kind, shape.groups[g], shape.bits);
        std::uint16_t scale = 0;
        const std::span part = std::span(codes).subspan(first, shape.groups[g]);
        KVANT_CHECK(encode_vector(q, shape.format, std::span(x).subspan(first, shape.groups[g]), part, scale),
                    ErrorCode::invalid_argument, "test: token {} does not encode", t);
        if (t >= tokens) {
          scale = shape.format == ScaleFormat::f16 ? 0x7e01 : 0xff;
          for (auto& code : part) code = static_cast<std::uint8_t>(random.next() % (1U << shape.bits));
        }
        pages.layout.set_scale(data, t, g, scale);
        for (std::size_t i = 0; i < part.size(); ++i) {
          levels_[t][first + i] = quantizer(shape.kind, shape.groups[0], shape.bits).levels[part[i]];
        }
      }
      pages.layout.set_codes(data, t, codes);
    }
  }

  std::byte* base_ = nullptr;
  std::size_t mapped_ = 0;
  std::vector<std::vector<double>> levels_;  // [token][padded dim]
};

void for_each_tier(const std::function<void(const CodeKernels&)>& test) {
  for (const auto& tier : code_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    SCOPED_TRACE(tier.name);
    test(*tier.function);
    if (testing::Test::HasFatalFailure()) return;
  }
}

void for_each_shape(const std::function<void(const Shape&, std::size_t tokens)>& test) {
  for (const Shape& shape : shapes()) {
    for (const std::size_t tokens : kTokenCounts) {
      SCOPED_TRACE(fmt::format("{}{} dims {} groups {} {} tokens {}", shape.kind == QuantizerKind::lm ? "lm" : "uni",
                               shape.bits, shape.dims(), shape.groups.size(),
                               shape.format == ScaleFormat::f16 ? "f16" : "log8", tokens));
      test(shape, tokens);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

/// Queries of kMostRows rows.
struct Queries {
  std::size_t dims, groups, planes;
  std::vector<std::int8_t> values;
  std::vector<float> units;
  std::vector<std::int32_t> sums;

  Queries(const CodedPages& pages, std::size_t planes_of, int largest)
      : dims(pages.layout.padded_dims()),
        groups(pages.layout.groups()),
        planes(planes_of),
        values(kMostRows * planes * dims),
        units(kMostRows * planes * groups),
        sums(units.size()) {
    for (std::size_t r = 0; r < kMostRows; ++r) {
      auto q = normals(dims, 100 + r);
      std::fill(q.begin() + static_cast<std::ptrdiff_t>(pages.layout.dims()), q.end(), 0.0F);
      quantize_query(pages, q.data(), static_cast<int>(planes), largest, &values[r * planes * dims],
                     &units[r * planes * groups], &sums[r * planes * groups]);
    }
  }
  QuantizedQueries from(std::size_t row) const {
    const std::size_t r = row * planes;
    return {&values[r * dims], &units[r * groups], &sums[r * groups], static_cast<int>(planes)};
  }
};

struct Expected {
  double value = 0, magnitude = 0;  // magnitude: of the terms that float sums
};

std::vector<Expected> expected_logits(const Page& page, const Queries& q, std::size_t tokens) {
  std::vector<Expected> all(kMostRows * kPageTokens);
  for (std::size_t r = 0; r < kMostRows * q.planes; ++r) {
    for (std::size_t t = 0; t < tokens; ++t) {
      std::vector<double> sums(q.groups);
      for (std::size_t i = 0; i < q.dims; ++i) sums[page.group(i)] += q.values[r * q.dims + i] * page.level(t, i);
      for (std::size_t g = 0; g < q.groups; ++g) {
        const double term =
            static_cast<double>(q.units[r * q.groups + g]) * static_cast<double>(page.scale(t, g)) * sums[g];
        all[r / q.planes * kPageTokens + t].value += term;
        all[r / q.planes * kPageTokens + t].magnitude += std::abs(term);
      }
    }
  }
  return all;
}

TEST(Codes, ScoresAreExactSumsTimesTheScales) {
  for_each_shape([](const Shape& shape, std::size_t tokens) {
    const Page page(shape, PageSide::key, tokens);
    for (const std::size_t planes : {1U, 2U}) {
      for_each_tier([&](const CodeKernels& kernels) {
        const Queries q(page.pages, planes, kernels.largest_query(shape.bits));
        const auto expected = expected_logits(page, q, tokens);
        for (const std::size_t rows : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 13U}) {
          std::vector<float> logits(rows * kPageTokens + 1, 9.0F);
          kernels.score[static_cast<std::size_t>(shape.bits - 1)](
              {page.pages, q.from(0), rows, page.data.data(), tokens, logits.data()});
          for (std::size_t i = 0; i < rows * tokens; ++i) {
            const std::size_t at = i / tokens * kPageTokens + i % tokens;
            // Each term is rounded three times, and then with each of at most 4 sums.
            ASSERT_NEAR(static_cast<double>(logits[at]), expected[at].value, 7 * kEps * expected[at].magnitude)
                << "planes " << planes << " rows " << rows << " at " << i / tokens << ',' << i % tokens;
          }
          ASSERT_EQ(logits.back(), 9.0F);
        }
      });
    }
  });
}

/// A mix with weights of many sizes, as a softmax leaves them; a quarter of them 0.
struct Weights {
  std::vector<float> weights, before;

  explicit Weights(std::size_t dims) : weights(kMostRows * kPageTokens), before(kMostRows * dims + 1) {
    Random random(9);
    for (float& w : weights) {
      w = random.next() % 4 == 0 ? 0.0F : static_cast<float>(std::exp(-std::abs(4 * random.normal())));
    }
    for (float& x : before) x = static_cast<float>(random.normal());
  }
};

struct ExpectedMix {
  double value = 0;                  // with the weights as rounded
  double magnitude = 0;              // of the terms that float sums
  double true_value = 0, bound = 0;  // with the weights as they are; what their rounding may change
};

/// The bits of a token of a page in reverse order, centred: what coarse weights are dithered by.
float dither(std::size_t token) {
  int reversed = 0;
  for (std::size_t bit = 0; bit < 6; ++bit) reversed += static_cast<int>(token >> bit & 1) << (5 - bit);
  return (static_cast<float>(reversed) - 31.5F) / 64;
}

std::vector<ExpectedMix> expected_mix(const Page& page, const Weights& w, std::size_t tokens, int coarse_weight) {
  const bool coarse = page.pages.table.bits <= 4;
  const auto most = static_cast<float>(coarse ? coarse_weight : 16383);
  const std::size_t dims = page.pages.layout.padded_dims();
  std::vector<ExpectedMix> all(kMostRows * dims);
  for (std::size_t r = 0; r < kMostRows; ++r) {
    for (std::size_t i = 0; i < dims; ++i) {
      float product[kPageTokens], peak = 0;
      for (std::size_t t = 0; t < tokens; ++t) {
        product[t] = w.weights[r * kPageTokens + t] * page.scale(t, page.group(i));
        peak = std::max(peak, product[t]);
      }
      double whole_sum = 0, true_sum = 0, levels = 0;
      for (std::size_t t = 0; t < tokens && peak > 0; ++t) {
        const float factor = most / peak;  // as the contract's rounding is carried out, in float
        const float exact = product[t] * factor;
        whole_sum += std::nearbyint(static_cast<double>(exact + (coarse ? dither(t) : 0))) * page.level(t, i);
        true_sum += static_cast<double>(product[t]) * page.level(t, i);
        levels += std::abs(page.level(t, i));
      }
      const double unit = static_cast<double>(peak) / static_cast<double>(most);
      const double kept = static_cast<double>(w.before[r * dims + i]);
      // Beyond the half (and the dither), the factor and the product with it err by at most 3 roundings of `most`.
      all[r * dims + i] = {kept + unit * whole_sum, std::abs(kept) + std::abs(unit * whole_sum), kept + true_sum,
                           unit * ((coarse ? 63.5 / 64 : 0.5) + most * 3 * kEps) * levels};
    }
  }
  return all;
}

/// One token outweighs all others, which lie below half a step of the coarse weights and still count together.
TEST(Codes, SmallWeightsKeepTheirSum) {
  for_each_tier([](const CodeKernels& kernels) {
    for (const int bits : {2, 4}) {
      Page page({QuantizerKind::lm, bits, {64}, ScaleFormat::f16}, PageSide::value, kPageTokens);
      const std::size_t dims = page.pages.layout.padded_dims();
      for (std::size_t t = 1; t < kPageTokens; ++t) page.copy_token(0, t);
      for (const float small : {0.0003F, 0.0007F, 0.001F, 0.0019F}) {
        std::vector<float> weights(kPageTokens, small), out(dims);
        weights[17] = 1;
        kernels.mix[static_cast<std::size_t>(bits - 1)](
            {page.pages, weights.data(), 1, page.data.data(), kPageTokens, out.data()});
        // 63 neighbours of equal weight: their rounded sum is off by no more than one step.
        for (std::size_t i = 0; i < dims; ++i) {
          const double value = static_cast<double>(page.scale(0, 0)) * page.level(0, i);
          EXPECT_NEAR(static_cast<double>(out[i]) / value, 1 + 63.0 * static_cast<double>(small),
                      1.01 / kernels.coarse_weight)
              << small;
        }
      }
    }
  });
}

TEST(Codes, MixesAreExactSumsOfRoundedWeights) {
  for_each_shape([](const Shape& shape, std::size_t tokens) {
    const Page page(shape, PageSide::value, tokens);
    const std::size_t dims = page.pages.layout.padded_dims();
    const Weights w(dims);
    for_each_tier([&](const CodeKernels& kernels) {
      const auto expected = expected_mix(page, w, tokens, kernels.coarse_weight);
      for (const std::size_t rows : {1U, 2U, 3U, 4U, 5U, 6U, 7U, 13U}) {
        auto out = w.before;
        auto weights = w.weights;
        for (std::size_t r = 0; r < rows; ++r) {
          std::fill(&weights[r * kPageTokens + tokens], &weights[r * kPageTokens] + kPageTokens, std::nanf(""));
        }
        kernels.mix[static_cast<std::size_t>(shape.bits - 1)](
            {page.pages, weights.data(), rows, page.data.data(), tokens, out.data()});
        for (std::size_t i = 0; i < rows * dims; ++i) {
          const ExpectedMix& e = expected[i];
          // The unit, its product and their sum are rounded.
          ASSERT_NEAR(static_cast<double>(out[i]), e.value, 4 * kEps * e.magnitude) << rows << ' ' << i;
          ASSERT_NEAR(static_cast<double>(out[i]), e.true_value, e.bound + 4 * kEps * e.magnitude) << rows << ' ' << i;
        }
        for (std::size_t i = rows * dims; i < out.size(); ++i) ASSERT_EQ(out[i], w.before[i]) << rows << ' ' << i;
      }
    });
  });
}

TEST(Codes, RowsDoNotDependOnTheirNeighbours) {
  for (const Shape& shape : shapes()) {
    const Page keys(shape, PageSide::key, 64), values(shape, PageSide::value, 64);
    const std::size_t dims = keys.pages.layout.padded_dims(), kind = static_cast<std::size_t>(shape.bits - 1);
    const Weights w(dims);
    for (const std::size_t planes : {1U, 2U}) {
      for_each_tier([&](const CodeKernels& kernels) {
        const Queries q(keys.pages, planes, kernels.largest_query(shape.bits));
        std::vector<float> logits(kMostRows * kPageTokens);
        auto out = w.before;
        kernels.score[kind]({keys.pages, q.from(0), kMostRows, keys.data.data(), 64, logits.data()});
        kernels.mix[kind]({values.pages, w.weights.data(), kMostRows, values.data.data(), 64, out.data()});
        for (std::size_t rows = 1; rows <= 6; ++rows) {
          for (std::size_t r = 0; r + rows <= kMostRows; r += 5) {
            std::vector<float> some(rows * kPageTokens);
            kernels.score[kind]({keys.pages, q.from(r), rows, keys.data.data(), 64, some.data()});
            ASSERT_TRUE(std::equal(some.begin(), some.end(), &logits[r * kPageTokens])) << rows << ' ' << r;
            std::vector<float> mixed(&w.before[r * dims], &w.before[(r + rows) * dims]);
            kernels.mix[kind]({values.pages, &w.weights[r * kPageTokens], rows, values.data.data(), 64, mixed.data()});
            ASSERT_TRUE(std::equal(mixed.begin(), mixed.end(), &out[r * dims])) << rows << ' ' << r;
          }
        }
      });
    }
  }
}

/// As halves of a longer vector are scored and mixed one after the other.
TEST(Codes, LogitsAddUpAndRowsOfTheResultMayLieApart) {
  constexpr std::size_t kRows = 7, kTokens = 50, kApart = 160;
  for (int bits = 1; bits <= 8; ++bits) {
    const Shape shape{bits <= 6 ? QuantizerKind::lm : QuantizerKind::uni, bits, {64, 32}, ScaleFormat::f16};
    const std::size_t kind = static_cast<std::size_t>(bits - 1), dims = shape.dims();
    const Page keys(shape, PageSide::key, kTokens), values(shape, PageSide::value, kTokens);
    const Weights w(dims);
    for_each_tier([&](const CodeKernels& kernels) {
      for (const std::size_t planes : {1U, 2U}) {
        const Queries q(keys.pages, planes, kernels.largest_query(bits));
        const auto expected = expected_logits(keys, q, kTokens);
        std::vector<float> logits(kRows * kPageTokens, 0.25F);
        kernels.score[kind]({keys.pages, q.from(0), kRows, keys.data.data(), kTokens, logits.data(), {}, true});
        for (std::size_t i = 0; i < kRows * kTokens; ++i) {
          const std::size_t at = i / kTokens * kPageTokens + i % kTokens;
          ASSERT_NEAR(static_cast<double>(logits[at]), 0.25 + expected[at].value,
                      8 * kEps * (0.25 + expected[at].magnitude));
        }
      }
      auto together = w.before;
      kernels.mix[kind]({values.pages, w.weights.data(), kRows, values.data.data(), kTokens, together.data()});
      std::vector<float> apart(kRows * kApart, 9.0F);
      for (std::size_t r = 0; r < kRows; ++r) std::copy_n(&w.before[r * dims], dims, &apart[r * kApart]);
      kernels.mix[kind]({values.pages, w.weights.data(), kRows, values.data.data(), kTokens, apart.data(), {}, kApart});
      for (std::size_t i = 0; i < apart.size(); ++i) {
        const bool inside = i % kApart < dims;
        ASSERT_EQ(apart[i], inside ? together[i / kApart * dims + i % kApart] : 9.0F) << i;
      }
    });
  }
}

TEST(Codes, WeightsOfNothingChangeNothing) {
  const Shape shape{QuantizerKind::lm, 4, {128}, ScaleFormat::f16};
  const Page page(shape, PageSide::value, 64);
  const auto before = normals(2 * 128, 1);
  for_each_tier([&](const CodeKernels& kernels) {
    std::vector<float> weights(2 * kPageTokens, 0.0F);
    std::fill_n(weights.begin() + kPageTokens, 3, 1e-38F);  // below anything that matters, above zero
    auto out = before;
    kernels.mix[3]({page.pages, weights.data(), 2, page.data.data(), 64, out.data()});
    for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], before[i]) << i;
  });
}

TEST(Codes, AllLogScalesDecode) {
  Shape shape{QuantizerKind::uni, 1, {32}, ScaleFormat::log8};
  Page page(shape, PageSide::key, 64);
  const std::vector<float> q(32, 1.0F);
  std::vector<std::int8_t> values(32);
  float unit = 0;
  std::int32_t sum = 0;
  quantize_query(page.pages, q.data(), 1, 64, values.data(), &unit, &sum);
  const std::vector<std::uint8_t> codes(32, 1);  // level 64 everywhere
  for (std::size_t first = 0; first < 256; first += kPageTokens) {
    for (std::size_t t = 0; t < kPageTokens; ++t) {
      page.pages.layout.set_codes(page.data, t, codes);
      page.pages.layout.set_scale(page.data, t, 0, static_cast<std::uint16_t>(first + t));
    }
    for_each_tier([&](const CodeKernels& kernels) {
      float logits[kPageTokens];
      kernels.score[0]({page.pages, {values.data(), &unit, &sum, 1}, 1, page.data.data(), 64, logits});
      for (std::size_t t = 0; t < kPageTokens; ++t) {
        const double exact = 64 * 32 * (first + t == 0 ? 0 : std::exp2((static_cast<double>(first + t) - 128) / 8));
        ASSERT_NEAR(static_cast<double>(logits[t]), exact, 5 * kEps * exact) << first + t;
      }
    });
  }
}

TEST(Codes, QueriesKeepTheBitsOfTheirPlanes) {
  const Shape shape{QuantizerKind::lm, 4, {64, 16}, ScaleFormat::f16};
  const CodedPages pages = shape.pages(PageSide::key);
  for (const auto& [size, largest] :
       {std::pair{1.0F, 127}, std::pair{1e-20F, 127}, std::pair{1e15F, 127}, std::pair{1.0F, 64}}) {
    auto q = normals(96, 7);
    for (float& x : q) x *= size;
    std::fill(q.begin() + 80, q.end(), 0.0F);
    std::vector<std::int8_t> values(2 * 96);
    float units[4];
    std::int32_t sums[4];
    quantize_query(pages, q.data(), 2, largest, values.data(), units, sums);
    double worst[2] = {0, 0};
    std::int32_t total[4] = {};
    for (std::size_t i = 0; i < 96; ++i) {
      const std::size_t g = i < 64 ? 0 : 1;
      float peak = 0;
      for (std::size_t j = g * 64; j < (g == 0 ? 64 : 96); ++j) peak = std::max(peak, std::abs(q[j]));
      const double coarse = static_cast<double>(units[g]) * values[i];
      const double fine = coarse + static_cast<double>(units[2 + g]) * values[96 + i];
      worst[0] = std::max(worst[0], std::abs(coarse - static_cast<double>(q[i])) / static_cast<double>(peak));
      worst[1] = std::max(worst[1], std::abs(fine - static_cast<double>(q[i])) / static_cast<double>(peak));
      total[g] += values[i];
      total[2 + g] += values[96 + i];
      EXPECT_LE(std::abs(values[i]), largest);
      EXPECT_LE(std::abs(values[96 + i]), largest);
    }
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(total[i], sums[i]);
    const double half = 0.5 / largest + 4 * kEps;  // of a unit, and of what the first plane leaves
    EXPECT_LE(worst[0], half);
    EXPECT_GT(worst[0], half * 0.8);
    EXPECT_LE(worst[1], half * half + 4 * kEps);
    EXPECT_GT(worst[1], half * half * 0.8);
  }
  std::vector<float> nothing(96, 0.0F);
  std::vector<std::int8_t> values(96, 1);
  float units[2];
  std::int32_t sums[2];
  quantize_query(pages, nothing.data(), 1, 127, values.data(), units, sums);
  EXPECT_EQ(units[0], 0.0F);
  EXPECT_EQ(sums[1], 0);
  EXPECT_EQ(std::count(values.begin(), values.end(), 0), 96);
}

TEST(Codes, TablesStandForTheLevels) {
  for (const QuantizerKind kind : {QuantizerKind::lm, QuantizerKind::uni}) {
    for (int bits = 1; bits <= (kind == QuantizerKind::lm ? 6 : 8); ++bits) {
      const auto& q = quantizer(kind, 128, bits);
      const CodeTable table = make_code_table(q);
      EXPECT_EQ(table.bits, bits);
      for (std::size_t code = 0; code < q.levels.size(); ++code) {
        const std::int32_t byte = bits > 6 ? static_cast<std::int32_t>(code) : table.bytes[code];
        EXPECT_EQ(table.step * byte - table.offset, q.levels[code]) << bits << ' ' << code;
      }
      for (std::size_t i = 0; bits <= 6 && i < 64; ++i) EXPECT_EQ(table.bytes[i], table.bytes[i % q.levels.size()]);
    }
  }
  EXPECT_THROW(make_code_table(quantizer(QuantizerKind::lm, 128, 7)), Error);
}

}  // namespace
}  // namespace kvant::kernels
