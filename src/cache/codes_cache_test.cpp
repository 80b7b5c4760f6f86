#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <map>
#include <tuple>

#include "cache/test_text.h"
#include "codec/vector_codec.h"

namespace kvant::cache {
namespace {

using codec::QuantizerKind;
using codec::ScaleFormat;

struct Code {
  QuantizerKind kind;
  int bits;
  std::string name() const { return (kind == QuantizerKind::lm ? "lm" : "uni") + std::to_string(bits); }
};

std::vector<Code> all_codes() {
  std::vector<Code> codes;
  for (int bits = 1; bits <= 6; ++bits) codes.push_back({QuantizerKind::lm, bits});
  for (int bits = 2; bits <= 8; ++bits) codes.push_back({QuantizerKind::uni, bits});
  return codes;
}

/// A head cut into groups: of `size` dims, the rest in descending powers of two (docs/formats.md).
std::vector<std::size_t> cut(std::size_t head_dim, std::size_t size) {
  std::vector<std::size_t> groups;
  for (; head_dim > 0; head_dim -= groups.back()) groups.push_back(std::min(size, std::bit_floor(head_dim)));
  return groups;
}

/// Mean relative squared error of the codec itself on random directions of `size` dims, with the levels made for
/// `first` dims. That it is what theory says is vector_codec_test's to show. Good to 1 %.
double distortion(const Code& code, ScaleFormat norm, std::size_t first, std::size_t size) {
  static std::map<std::tuple<QuantizerKind, int, ScaleFormat, std::size_t, std::size_t>, double> known;
  const auto [at, is_new] = known.try_emplace({code.kind, code.bits, norm, first, size});
  if (!is_new) return at->second;
  const bool own = first == size || code.kind == QuantizerKind::uni;
  codec::Quantizer q = codec::make_quantizer(code.kind, own ? size : first, code.bits);
  if (!own) {
    q.dimension = size;
    q.gain *= static_cast<float>(std::sqrt(static_cast<double>(size) / static_cast<double>(first)));
  }
  Random random(7);
  std::vector<float> x(size);
  std::vector<double> decoded(size);
  std::vector<std::uint8_t> codes(size);
  double error = 0, energy = 0;
  for (std::size_t n = 0; n < 40'000; n += size) {
    std::uint16_t scale = 0;
    for (float& value : x) value = static_cast<float>(random.normal());
    EXPECT_TRUE(codec::encode_vector(q, norm, x, codes, scale));
    codec::decode_vector(q, norm, codes, scale, decoded);
    for (std::size_t i = 0; i < size; ++i) {
      error += (x[i] - decoded[i]) * (x[i] - decoded[i]);
      energy += double{x[i]} * x[i];
    }
  }
  return at->second = error / energy;
}

/// Distortion of a head whose energy is spread evenly.
double head_distortion(const Code& code, ScaleFormat norm, const std::vector<std::size_t>& groups) {
  double sum = 0;
  std::size_t dims = 0;
  for (const std::size_t size : groups) {
    sum += static_cast<double>(size) * distortion(code, norm, groups.front(), size);
    dims += size;
  }
  return sum / static_cast<double>(dims);
}

struct Case {
  Isa isa;
  Code code;
  std::size_t head_dim, group;  ///< group 0: as large as can be
  ScaleFormat norm;
  std::string type() const {
    std::string text = code.name();
    if (group != 0) text += ",group=" + std::to_string(group);
    return norm == ScaleFormat::log8 ? text + ",norm=log8" : text;
  }
  double expected() const { return head_distortion(code, norm, cut(head_dim, group == 0 ? 256 : group)); }
};

constexpr std::size_t kHeadDims[] = {8, 16, 64, 80, 96, 112, 128, 256};

/// All codes on the best tier, every group size and norm for some head sizes, and some of these on the others.
std::vector<Case> cases_of(std::size_t head_dim) {
  std::vector<Case> cases;
  for (const Isa isa : supported_isas()) {
    const bool best = isa == supported_isas().back();
    if (!best && head_dim != 80 && head_dim != 128) continue;
    for (const Code& code : all_codes()) {
      cases.push_back({isa, code, head_dim, 0, ScaleFormat::f16});
      if (best || code.bits == 3) cases.push_back({isa, code, head_dim, 0, ScaleFormat::log8});
      for (const std::size_t group : {32U, 64U, 128U}) {
        const bool cuts = head_dim > group && (head_dim == 80 || head_dim >= 128);
        if (cuts && (best || code.bits == 4)) cases.push_back({isa, code, head_dim, group, ScaleFormat::f16});
      }
    }
  }
  return cases;
}

/// The squared errors of outputs or logits, and what is expected of them. Errors of stored values are independent and
/// about normal, and each sum of them has a relative variance of 2 / (degrees of freedom).
struct Ratio {
  double actual = 0, expected = 0, freedom = 0;
  void check() const { EXPECT_NEAR(actual / expected, 1, 5 * std::sqrt(2 / freedom) + 0.03); }
};

/// A query of a text with what is exact for it.
struct Query {
  std::size_t head, token;
  Exact exact;
};
std::vector<Query> queries(const Text& text, const std::vector<std::size_t>& tokens) {
  std::vector<Query> result;
  for (const std::size_t token : tokens) {
    for (std::size_t h = 0; h < static_cast<std::size_t>(text.config.heads); ++h) {
      result.push_back({h, token, attend_exactly(text, h, token)});
    }
  }
  return result;
}

double squared_norm(const float* x, std::size_t n) { return std::inner_product(x, x + n, x, 0.0); }

/// Values in codes, keys as they are: an output is off by the errors of the values, weighted.
TEST(KvCacheCodes, AllShapesOfValuesHaveTheCodecsDistortion) {
  ThreadPool pool(2);
  for (const std::size_t head_dim : kHeadDims) {
    constexpr std::size_t kTokens = 130;
    const int heads = head_dim <= 16 ? 32 : 8;
    Text text(make_flat_config(head_dim, heads, 1, "f32", "f32", kTokens), kTokens, 11);
    for (float& q : text.q) q *= 1.5F;
    // Outputs that share few errors with each other.
    const std::vector<Query> asked = queries(text, {10, 50, 90, kTokens - 1});
    std::vector<double> energies;  // sum over tokens of (weight |v|)^2
    for (const auto& [head, token, exact] : asked) {
      double& sum = energies.emplace_back(0);
      for (std::size_t t = 0; t <= token; ++t) {
        const double norm2 = squared_norm(&text.v[t * text.width() + head * head_dim], head_dim);
        sum += exact.weights[t] * exact.weights[t] * norm2;
      }
    }
    for (const Case& c : cases_of(head_dim)) {
      SCOPED_TRACE(fmt::format("{} {} head_dim {}", name(c.isa), c.type(), head_dim));
      const CacheConfig config = make_flat_config(head_dim, heads, 1, "f32", c.type(), kTokens);
      const std::vector<float> out = text.run(config, pool, c.isa, 67);
      Ratio ratio;
      for (std::size_t i = 0; i < asked.size(); ++i) {
        ratio.actual += squared_error(text, out, asked[i].head, asked[i].token, asked[i].exact.out) / energies[i];
        ratio.expected += c.expected();
      }
      ratio.freedom = static_cast<double>(asked.size() * head_dim);
      ratio.check();
    }
  }
}

/// What the rounding of a query to 8 bits adds to the relative error of keys. Its peak in the basis of the codes is
/// about as large as in that of the text.
double query_rounding(const float* q, std::size_t n) {
  double peak = 0;
  for (std::size_t i = 0; i < n; ++i) peak = std::max(peak, std::abs(double{q[i]}));
  return std::pow(peak / 127, 2) / 12 * static_cast<double>(n) / squared_norm(q, n);
}

/// Keys in codes, values that show the weights, whose logarithms are the logits up to a constant.
TEST(KvCacheCodes, AllShapesOfKeysHaveTheCodecsDistortion) {
  ThreadPool pool(2);
  for (const std::size_t head_dim : kHeadDims) {
    const std::size_t tokens = head_dim, heads = std::max<std::size_t>(2, 256 / head_dim), kGroup = 2;
    const auto config = [&](const std::string& k) {
      return make_flat_config(head_dim, static_cast<int>(heads), 2, k, "f32", tokens);
    };
    Text text(config("f32"), tokens, 21);
    std::fill(text.v.begin(), text.v.end(), 0.0F);
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t h = 0; h < heads; ++h) text.v[t * text.width() + h * head_dim + t] = 1;
    }
    const std::vector<Query> asked = queries(text, {tokens - 4, tokens - 3, tokens - 2, tokens - 1});
    const auto n = static_cast<double>(head_dim);
    for (const Case& c : cases_of(head_dim)) {
      SCOPED_TRACE(fmt::format("{} {} head_dim {}", name(c.isa), c.type(), head_dim));
      const std::vector<float> out = text.run(config(c.type()), pool, c.isa, 33);
      Ratio ratio;
      for (const auto& [head, token, exact] : asked) {
        const float* q = &text.q[token * text.query_width() + head * head_dim];
        const float* weights = &out[token * text.query_width() + head * head_dim];
        const auto count = static_cast<double>(token + 1);
        std::vector<double> errors;
        double mean = 0, keys2 = 0;
        for (std::size_t t = 0; t <= token; ++t) {
          errors.push_back(std::log(double{weights[t]}) - exact.logits[t]);
          mean += errors.back() / count;
          keys2 += squared_norm(&text.k[t * text.width() + head / kGroup * head_dim], head_dim) / count;
        }
        for (const double e : errors) ratio.actual += (e - mean) * (e - mean);
        const double relative = c.expected() + (c.code.bits >= 6 ? 0 : query_rounding(q, head_dim));
        ratio.expected += (count - 1) * relative * squared_norm(q, head_dim) * keys2 / n / n;
      }
      // A sum over 8 queries of <q, e>^2 for one key: 2 (1 / 8 + 1 / dims) of relative variance at most.
      ratio.freedom = static_cast<double>(heads) * n / (1.0 / 8 + 1 / n);
      ratio.check();
    }
  }
}

/// Mean relative error of all outputs but the first ones, where there is little to average.
double relative_error(const Text& text, const std::vector<float>& out, const std::vector<std::vector<double>>& exact) {
  double error = 0, energy = 0;
  const std::size_t heads = static_cast<std::size_t>(text.config.heads), first = text.tokens - exact.size() / heads;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    error += squared_error(text, out, i % heads, first + i / heads, exact[i]);
    energy += std::inner_product(exact[i].begin(), exact[i].end(), exact[i].begin(), 0.0);
  }
  return error / energy;
}

/// Every type of keys with every type of values: the errors of both sides add up.
TEST(KvCacheCodes, AllTypePairsAddTheirErrors) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 100, kFirst = 60;
  std::vector<std::string> values{"f32",  "f16",      "bf16",     "q8_0",     "q5_1",     "q5_0",    "q4_1",
                                  "q4_0", "rot-q8_0", "rot-q5_1", "rot-q5_0", "rot-q4_1", "rot-q4_0"};
  for (const Code& code : all_codes()) values.push_back(code.name());
  std::vector<std::string> keys = values;
  keys.insert(keys.end(), {"flex:0:6:0:0:0", "flexfix:0:5:0:1:0"});

  const Text text(make_flat_config(128, 1, 2, "f32", "f32", kTokens), kTokens, 31);
  std::vector<std::vector<double>> exact;
  for (std::size_t token = kFirst; token < kTokens; ++token) {
    for (std::size_t h = 0; h < 2; ++h) exact.push_back(attend_exactly(text, h, token).out);
  }
  const auto error = [&](const std::string& k, const std::string& v) {
    CacheConfig c = make_flat_config(128, 1, 2, k, v, kTokens);
    return relative_error(text, text.run(c, pool, supported_isas().back(), 70), exact);
  };
  std::vector<double> of_values;
  for (const std::string& v : values) of_values.push_back(error("f32", v));
  for (const std::string& k : keys) {
    const double of_keys = error(k, "f32");
    ASSERT_LT(of_keys, k == "lm1" ? 1 : 0.5) << k;
    for (std::size_t i = 0; i < values.size(); ++i) {
      SCOPED_TRACE(k + " " + values[i]);
      const double both = error(k, values[i]), sum = of_keys + of_values[i];
      ASSERT_TRUE(std::isfinite(both));
      // Rounding of f32 at the least; coarse keys change the weights that the values' errors have.
      EXPECT_LT(both, 1.5 * sum + 1e-12);
      EXPECT_GT(both, 0.5 * sum - 1e-12);
    }
  }
}

}  // namespace
}  // namespace kvant::cache
