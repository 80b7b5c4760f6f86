#include <gmock/gmock.h>

#include <cmath>

#include "cache/basis.h"
#include "cache/test_text.h"

namespace kvant::cache {
namespace {

using kernels::RopeConfig;
using testing::HasSubstr;

/// A vector of this norm in a random direction for each of `heads`.
std::vector<float> vectors(std::size_t heads, std::size_t dims, double norm, std::uint64_t seed) {
  std::vector<float> x = normals(heads * dims, seed);
  for (float& value : x) value *= static_cast<float>(norm / std::sqrt(static_cast<double>(dims)));
  return x;
}

void add_to_rows(std::vector<float>& rows, const std::vector<float>& x, float factor = 1) {
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += factor * x[i % x.size()];
}

/// Repeats a text's rows to `tokens` tokens.
void stretch(Text& text, std::size_t tokens) {
  const auto repeat = [&](std::vector<float>& x) {
    const std::size_t size = x.size(), whole = size / text.tokens * tokens;
    x.resize(whole);
    for (std::size_t i = size; i < whole; ++i) x[i] = x[i - size];
  };
  for (auto* x : {&text.q, &text.k, &text.v}) repeat(*x);
  text.tokens = tokens;
}

void set_rope(Text& text, RopeConfig config) {
  config.dims = 2 * text.config.rope_pairs;
  text.rope = kernels::rope_frequencies(config);
  std::vector<std::size_t> positions(text.tokens);
  std::iota(positions.begin(), positions.end(), std::size_t{0});
  text.angles.resize(text.tokens * config.dims);
  kernels::rope_angles(text.rope, positions, text.angles.data());
}

std::vector<std::pair<const char*, RopeConfig>> ropes(std::size_t pairs) {
  RopeConfig none, linear, yarn, factors;
  for (auto* r : {&none, &linear, &yarn, &factors}) r->base = 1e6;
  linear.scaling = RopeConfig::Scaling::linear;
  linear.factor = 4;
  yarn.scaling = RopeConfig::Scaling::yarn;
  yarn.factor = 4;
  yarn.original_context = 32768;
  yarn.attention_factor = 1.25;
  for (std::size_t j = 0; j < pairs; ++j) factors.frequency_factors.push_back(j < pairs / 2 ? 1.0F : 8.0F);
  return {{"none", none}, {"linear", linear}, {"YaRN", yarn}, {"frequency factors", factors}};
}

/// How much an output in f32 may be off. A logit of the anchor's part is off by 1e-6 of the sum of the magnitudes of
/// its pairs (kernels/anchor/anchor.h), the rest, and all of a cache without one, by ten roundings of the largest
/// product; weights are off by as much, relatively. To this come the roundings of the sums over tokens.
double tolerance(const Text& text, const Exact& exact) {
  double value = 0;
  for (const float v : text.v) value = std::max(value, std::abs(double{v}));
  const double logit = (1e-6 + 10 * 0x1p-24) * exact.largest_product;
  return (2 * logit + 0x1p-19) * value;
}

/// With |a| the norm of the anchor, queries by which its part of the logits has a deviation of about 2.5.
float query_factor(double anchor, std::size_t head_dim) {
  const auto n = static_cast<double>(head_dim);
  return static_cast<float>(2.5 * std::sqrt(n) / anchor);
}

/// The last of 131,072 tokens with an anchor of norm 1000: a cache with it is as exact as one without, and the part of
/// the anchor is most of what the outputs are made of.
void expect_exact_at_the_end(std::size_t head_dim, std::size_t pairs, const std::vector<std::string>& rope_names) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 131072;
  CacheConfig plain = make_flat_config(head_dim, 1, 1, "f32", "f32", kTokens);
  plain.rope_pairs = head_dim / 2;
  Text residual(plain, 4096, 41);
  const float query = query_factor(1000, head_dim);
  for (float& q : residual.q) q *= query;
  stretch(residual, kTokens);
  set_rope(residual, ropes(pairs).front().second);
  residual.v = residual.angles;  // values that tell where the weights are
  residual.config.rope_pairs = plain.rope_pairs = pairs;
  const std::vector<float> anchor = vectors(1, head_dim, 1000, 43);
  Text text = residual;
  add_to_rows(text.k, anchor);
  // What f32 keys hold without the anchor.
  residual.k = text.k;
  add_to_rows(residual.k, anchor, -1);
  for (const auto& [rope_name, rope] : ropes(pairs)) {
    if (std::find(rope_names.begin(), rope_names.end(), rope_name) == rope_names.end()) continue;
    SCOPED_TRACE(fmt::format("{} head_dim {} {} pairs", rope_name, head_dim, pairs));
    set_rope(text, rope);
    residual.rope = text.rope;
    const Exact exact = attend_exactly(text, 0, kTokens - 1), without = attend_exactly(residual, 0, kTokens - 1);
    const double allowed = tolerance(text, exact);
    ASSERT_LT(*std::max_element(exact.weights.begin(), exact.weights.end()), 0.2);
    const double shift =
        std::sqrt(std::inner_product(exact.out.begin(), exact.out.end(), without.out.begin(), 0.0, std::plus<>(),
                                     [](double a, double b) { return (a - b) * (a - b); }) /
                  static_cast<double>(head_dim));
    ASSERT_GT(shift, 50 * allowed);

    CacheConfig anchored = plain;
    anchored.k = codec::parse_cache_spec("f32,anchor=bias");
    anchored.rope = text.rope;
    anchored.constants.resize(1);
    anchored.constants[0].k_anchor = anchor;
    for (const CacheConfig& config : {plain, anchored}) {
      KvCache cache(config, pool, supported_isas().back());
      text.append(cache, 0, 0, kTokens - 1);
      std::vector<float> out(text.q.size());
      text.feed(cache, 0, kTokens - 1, 1, out);
      const float* got = &out[(kTokens - 1) * head_dim];
      for (std::size_t i = 0; i < head_dim; ++i) ASSERT_NEAR(double{got[i]}, exact.out[i], allowed) << i;
    }
  }
}

TEST(KvCacheAnchors, AllRopesAreExactAtLongPositions) {
  expect_exact_at_the_end(64, 32, {"none", "linear", "YaRN", "frequency factors"});
  expect_exact_at_the_end(64, 16, {"YaRN"});
}

TEST(KvCacheAnchors, AllHeadSizesAreExactAtLongPositions) {
  for (const std::size_t head_dim : {80U, 96U, 128U, 256U}) {
    expect_exact_at_the_end(head_dim, head_dim / 2, {"linear", "YaRN"});
  }
}

/// Root mean square error of an output.
double rms_error(const Text& text, const std::vector<float>& out, std::size_t head, std::size_t token,
                 const Exact& exact) {
  return std::sqrt(squared_error(text, out, head, token, exact.out) / static_cast<double>(exact.out.size()));
}

/// Prefill and decoding, several layers and heads with anchors of their own, on all tiers.
TEST(KvCacheAnchors, AllShapesAreExact) {
  ThreadPool pool(1);
  constexpr std::size_t kTokens = 210;
  for (const std::size_t head_dim : {8U, 64U, 80U, 96U, 128U}) {
    for (const double norm : {0.5, 30.0, 1000.0}) {
      for (const auto& [rope_name, rope] : ropes(head_dim / 2)) {
        CacheConfig config = make_config(head_dim, 3, "f32,anchor=bias", "f32", kTokens);
        Text text(config, kTokens, 51, rope);
        const std::vector<float> anchor = vectors(2, head_dim, norm, 53);
        add_to_rows(text.k, anchor);
        const float query = query_factor(norm + std::sqrt(static_cast<double>(head_dim)), head_dim);
        for (float& q : text.q) q *= query;
        config.rope = text.rope;
        config.constants.resize(2);
        config.constants[0].k_anchor = vectors(2, head_dim, norm, 55);
        config.constants[1].k_anchor = anchor;  // of the layer whose outputs are left
        struct Asked {
          std::size_t head, token;
          Exact exact;
        };
        std::vector<Asked> asked;
        for (const std::size_t token : {std::size_t{0}, std::size_t{70}, kTokens - 1}) {
          for (const std::size_t head : {1U, 4U}) asked.push_back({head, token, attend_exactly(text, head, token)});
        }
        for (const Isa isa : supported_isas()) {
          for (const std::size_t chunk : {8U, 150U}) {
            const std::vector<float> out = text.run(config, pool, isa, chunk);
            for (const auto& [head, token, exact] : asked) {
              ASSERT_LT(rms_error(text, out, head, token, exact), tolerance(text, exact))
                  << fmt::format("{} {} head_dim {} |a| {} chunk {} token {} head {}", name(isa), rope_name, head_dim,
                                 norm, chunk, token, head);
            }
          }
        }
      }
    }
  }
}

/// Keys in codes pay for what is left of them without the anchor, not for the anchor.
TEST(KvCacheAnchors, CodesAreAsGoodAsWithoutTheConstant) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 120, kHeadDim = 64;
  const auto plain = make_flat_config(kHeadDim, 2, 1, "lm4,anchor=none", "f32", kTokens);
  const Text residual(plain, kTokens, 61);
  Text text = residual;
  const std::vector<float> anchor = vectors(2, kHeadDim, 200, 63);
  add_to_rows(text.k, anchor);
  const auto error = [&](const Text& of, const CacheConfig& config) {
    const std::vector<float> out = of.run(config, pool, supported_isas().back(), kTokens);
    double sum = 0;
    for (std::size_t token = 60; token < kTokens; ++token) {
      for (const std::size_t head : {0U, 1U}) {
        // Of queries that hardly look at the constant, so that the weights of both texts are alike.
        sum += squared_error(of, out, head, token, attend_exactly(of, head, token).out);
      }
    }
    return sum;
  };
  for (float& q : text.q) q *= 0.05F;
  Text small = residual;
  small.q = text.q;
  CacheConfig anchored = plain;
  anchored.k.anchor = codec::Anchor::bias;
  anchored.rope = text.rope;
  anchored.constants.resize(1);
  anchored.constants[0].k_anchor = anchor;
  const double without = error(small, plain), with = error(text, anchored), ignored = error(text, plain);
  EXPECT_NEAR(with / without, 1, 0.7);
  EXPECT_GT(ignored, 50 * with);
}

/// Values: what is stored is small, and what is added back is exact.
TEST(KvCacheAnchors, ValuesGetTheirConstantBack) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 150;
  for (const std::size_t head_dim : {8U, 80U, 128U}) {
    for (const char* type : {"f32", "f16", "uni8"}) {
      CacheConfig config = make_flat_config(head_dim, 2, 2, "f32", fmt::format("{},anchor=bias", type), kTokens);
      const Text residual(config, kTokens, 71);
      Text text = residual;
      const std::vector<float> anchor = vectors(2, head_dim, 1000, 73);
      add_to_rows(text.v, anchor);
      config.constants.resize(1);
      config.constants[0].v_anchor = anchor;
      CacheConfig plain = config;
      plain.constants.clear();
      double largest = 0, constant = 0;
      for (const float v : residual.v) largest = std::max(largest, std::abs(double{v}));
      for (const float a : anchor) constant = std::max(constant, std::abs(double{a}));
      // Rounding of the text itself, of what is taken out and of the sum; weights by ten roundings of the logits; and
      // the type: half a unit of f16, or the codes' error (0.01 of a norm, each value's share of it at most six times).
      const double stored = std::string_view(type) == "f32" ? 0 : std::string_view(type) == "f16" ? 0x1p-11 : 0.06;
      const double allowed = 4 * 0x1p-24 * constant + (stored + 0x1p-18) * largest;
      for (const Isa isa : supported_isas()) {
        const std::vector<float> out = text.run(config, pool, isa, 77), worse = text.run(plain, pool, isa, 77);
        double with = 0, without = 0;
        for (const std::size_t token : {std::size_t{0}, std::size_t{70}, kTokens - 1}) {
          for (const std::size_t head : {0U, 3U}) {
            const Exact exact = attend_exactly(text, head, token);
            const double error = rms_error(text, out, head, token, exact);
            ASSERT_LT(error, allowed) << name(isa) << " " << type << " " << head_dim;
            with += error;
            without += rms_error(text, worse, head, token, exact);
          }
        }
        EXPECT_TRUE(stored == 0 || without > 10 * with) << name(isa) << " " << type << " " << head_dim;
      }
    }
  }
}

/// The mean of rotated keys is the same for all tokens, so softmax does not see it: not in f32, and codes gain by it.
TEST(KvCacheAnchors, MeanOfRotatedKeysDropsOut) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 120, kHeadDim = 64;
  CacheConfig config = make_flat_config(kHeadDim, 2, 1, "f32,anchor=static,plan=x", "f32", kTokens);
  config.rope_pairs = 0;  // so that the mean is in the keys as they are given
  Text text(config, kTokens, 81);
  const std::vector<float> mean = vectors(2, kHeadDim, 200, 83);
  add_to_rows(text.k, mean);
  config.constants.resize(1);
  config.constants[0].k_static = mean;
  CacheConfig coded = config;
  coded.k = codec::parse_cache_spec("lm4,anchor=static,plan=x");
  CacheConfig ignored = coded;
  ignored.constants.clear();
  for (const Isa isa : supported_isas()) {
    const std::vector<float> out = text.run(config, pool, isa, 50);
    const std::vector<float> codes = text.run(coded, pool, isa, 50), worse = text.run(ignored, pool, isa, 50);
    double with = 0, without = 0;
    for (std::size_t token = 60; token < kTokens; ++token) {
      const Exact exact = attend_exactly(text, 1, token);
      ASSERT_LT(rms_error(text, out, 1, token, exact), tolerance(text, exact));
      with += squared_error(text, codes, 1, token, exact.out);
      without += squared_error(text, worse, 1, token, exact.out);
    }
    EXPECT_GT(without, 20 * with);
  }
}

std::vector<float> energies(std::size_t n, std::uint64_t seed, double spread) {
  std::vector<float> x = normals(n, seed);
  for (float& e : x) e = static_cast<float>(std::exp(spread * double{e}));
  return x;
}

/// Factors on the keys' pairs and their inverses on the queries.
TEST(KvCacheAnchors, PairScalesDropOut) {
  ThreadPool pool(2);
  for (const std::size_t pairs : {32U, 12U}) {
    CacheConfig config = make_flat_config(64, 2, 2, "f32,scale=weights,anchor=bias", "f32", 100);
    config.rope_pairs = pairs;
    Text text(config, 100, 91);
    const std::vector<float> anchor = vectors(2, 64, 30, 93);
    add_to_rows(text.k, anchor);
    config.rope = text.rope;
    config.constants.resize(1);
    config.constants[0].k_anchor = anchor;
    config.constants[0].k_energy = energies(2 * pairs, 95, 2);
    config.constants[0].q_energy = energies(2 * pairs, 97, 2);
    for (const Isa isa : supported_isas()) {
      const std::vector<float> out = text.run(config, pool, isa, 50);
      for (const std::size_t token : {0U, 63U, 99U}) {
        for (std::size_t head = 0; head < 4; ++head) {
          const Exact exact = attend_exactly(text, head, token);
          // Scaled keys and queries are longer: their product has larger roundings.
          ASSERT_LT(rms_error(text, out, head, token, exact), 20 * tolerance(text, exact));
        }
      }
    }
  }
}

TEST(KvCacheAnchors, ConstantsThatDoNotFitAreNamed) {
  ThreadPool pool(1);
  const auto message = [&](auto change) {
    CacheConfig config = make_config(64, 2, "lm4", "lm4");
    config.rope.theta.assign(32, 0.1);
    config.constants.resize(2);
    change(config);
    return error_of(ErrorCode::invalid_argument, [&] { KvCache(config, pool, Isa::scalar); });
  };
  EXPECT_EQ(message([](CacheConfig&) {}), "no error");
  EXPECT_THAT(message([](CacheConfig& c) { c.constants.resize(3); }), HasSubstr("constants of 3 layers, expected 2"));
  EXPECT_THAT(message([](CacheConfig& c) { c.rope.theta.resize(31); }), HasSubstr("31 RoPE frequencies, expected 32"));
  EXPECT_THAT(message([](CacheConfig& c) { c.constants[1].k_anchor.resize(127); }),
              HasSubstr("key anchor of layer 1: 127 values, expected 128"));
  EXPECT_THAT(message([](CacheConfig& c) { c.constants[0].k_static.resize(64); }),
              HasSubstr("mean of the keys of layer 0: 64 values, expected 128"));
  EXPECT_THAT(message([](CacheConfig& c) { c.constants[0].v_anchor.resize(129); }),
              HasSubstr("value anchor of layer 0: 129 values, expected 128"));
  EXPECT_THAT(message([](CacheConfig& c) { c.constants[0].k_energy.resize(32); }),
              HasSubstr("energies of the keys of layer 0: 32 values, expected 64"));
  EXPECT_THAT(message([](CacheConfig& c) { c.constants[0].q_energy.resize(65); }),
              HasSubstr("energies of the queries of layer 0: 65 values, expected 64"));
  EXPECT_THAT(message([](CacheConfig& c) {
                c.constants[0].k_anchor.resize(128);
                c.rope.theta.clear();
              }),
              HasSubstr("keys with an anchor, but 0 RoPE frequencies, expected 32"));
}

/// One KV head of 128 dims with the RoPE of Qwen2.5 and the constants to choose from.
struct Basis : testing::Test {
  static constexpr std::size_t kPairs = 64, kHeadDim = 128;
  static kernels::AnchorAngles make_angles() {
    RopeConfig rope;
    rope.dims = kHeadDim;
    rope.base = 1e6;
    return {kernels::rope_frequencies(rope), 256};
  }
  kernels::AnchorAngles angles = make_angles();
  LayerConstants constants;
  HeadBasis make(const char* type) const {
    Maps none;
    return make_key_basis(codec::parse_cache_spec(type), constants, 0, kHeadDim, &angles, none, Isa::scalar);
  }
  double anchor_energy(std::size_t j) const {
    return std::pow(constants.k_anchor[j], 2.0) + std::pow(constants.k_anchor[j + kPairs], 2.0);
  }
};

/// Of the fast pairs the smallest are left in the keys while they add no more than 2 % to their energy; slow ones stay.
TEST_F(Basis, SmallFastPairsOfTheAnchorStayInTheKeys) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    constants.k_anchor = normals(kHeadDim, 100 + seed);
    for (std::size_t j = 0; j < kPairs; ++j) {
      const auto factor = static_cast<float>(std::exp(Random(seed * 64 + j).normal()));
      constants.k_anchor[j] *= factor;
      constants.k_anchor[j + kPairs] *= factor;
    }
    constants.k_energy = energies(kPairs, 200 + seed, 1);
    const double budget = 0.02 * std::accumulate(constants.k_energy.begin(), constants.k_energy.end(), 0.0);
    std::vector<double> fast;
    for (std::size_t j = 0; j < kPairs; ++j) {
      if (!angles.slow(j)) fast.push_back(anchor_energy(j));
    }
    std::sort(fast.begin(), fast.end());
    double left = 0, greatest_left = -1;
    for (const double e : fast) {
      if (left + e > budget) break;
      left += e;
      greatest_left = e;
    }
    const HeadBasis basis = make("f32,anchor=bias");
    ASSERT_EQ(basis.anchor.size(), kHeadDim);
    std::vector<std::uint16_t> kept;
    for (std::size_t j = 0; j < kPairs; ++j) {
      const bool stays = !angles.slow(j) && anchor_energy(j) <= greatest_left;
      EXPECT_EQ(basis.anchor[j], stays ? 0 : constants.k_anchor[j]) << seed << " " << j;
      EXPECT_EQ(basis.anchor[j + kPairs], stays ? 0 : constants.k_anchor[j + kPairs]) << seed << " " << j;
      if (!angles.slow(j) && !stays) kept.push_back(static_cast<std::uint16_t>(j));
    }
    EXPECT_EQ(basis.pairs.fast, kept);
    EXPECT_LT(kept.size(), fast.size());  // the rule had something to do
    EXPECT_GT(kept.size(), 0u);
  }
}

TEST_F(Basis, SmallAnchorsStayInTheKeysWhole) {
  constants.k_energy.assign(kPairs, 1);
  for (const bool whole : {true, false}) {
    // Energies that make 2 % of the keys', a little less and a little more.
    constants.k_anchor.assign(kHeadDim, static_cast<float>(std::sqrt(0.02 * (whole ? 0.999 : 1.001) / 2)));
    const HeadBasis basis = make("f32,anchor=bias");
    EXPECT_EQ(basis.anchor.empty(), whole);
    EXPECT_EQ(basis.pairs.re.empty(), whole);
  }
  constants.k_anchor.assign(kHeadDim, 0);
  constants.k_energy.clear();
  EXPECT_TRUE(make("f32,anchor=bias").anchor.empty());
  constants.k_anchor.assign(kHeadDim, 1e-6F);
  EXPECT_EQ(make("f32,anchor=bias").anchor, constants.k_anchor);  // nothing known to compare it with
  EXPECT_TRUE(make("f32,anchor=none").anchor.empty());
  EXPECT_TRUE(make("f32,anchor=static,plan=x").anchor.empty());
}

/// Scales are s^4 = E|Q|^2 / E|X|^2 in steps of 2^(1/16) that keep the keys' energy, and what is left of an anchor
/// counts as energy of the keys.
TEST_F(Basis, ScalesFollowTheEnergies) {
  constants.k_energy = energies(kPairs, 301, 1.5);
  constants.q_energy = energies(kPairs, 303, 1.5);
  for (const bool with_rest : {false, true}) {
    std::vector<double> x(constants.k_energy.begin(), constants.k_energy.end());
    const std::vector<double> q(constants.q_energy.begin(), constants.q_energy.end());
    constants.k_anchor.clear();
    if (with_rest) {
      x[3] = constants.k_energy[3] = 0.001F;  // of the first, fast pairs
      constants.k_anchor.assign(kHeadDim, 100);
      constants.k_anchor[3] = constants.k_anchor[3 + kPairs] = 0.3F;
      x[3] += 2 * 0.3F * double{0.3F};
    }
    double sum_x = 0, sum_q = 0, mixed = 0;
    for (std::size_t j = 0; j < kPairs; ++j) {
      sum_x += x[j];
      sum_q += q[j];
      mixed += std::sqrt(x[j] * q[j]);
    }
    const HeadBasis basis = make("f32,anchor=bias,scale=weights");
    EXPECT_NEAR(basis.gain, sum_q * sum_x / (mixed * mixed), 1e-6);
    ASSERT_EQ(basis.scale.size(), kHeadDim);
    double energy = 0;
    for (std::size_t j = 0; j < kPairs; ++j) {
      const double ideal = std::log2(std::pow(q[j] / x[j], 0.25) * std::sqrt(sum_x / mixed));
      const double steps = std::round(16 * std::log2(double{basis.scale[j]}));
      EXPECT_EQ(basis.scale[j], static_cast<float>(std::exp2(steps / 16)));
      EXPECT_EQ(basis.inverse[j], static_cast<float>(std::exp2(-steps / 16)));
      EXPECT_NEAR(steps / 16, ideal, 1.0 / 32 + 1e-6) << j;
      EXPECT_EQ(basis.scale[j + kPairs], basis.scale[j]);
      EXPECT_EQ(basis.inverse[j + kPairs], basis.inverse[j]);
      energy += x[j] * std::pow(double{basis.scale[j]}, 2);
    }
    EXPECT_NEAR(energy / sum_x, 1, 0.02);
  }
}

/// Half of the pairs are looked at g times as much: the gain is ((1 + g) / 2) / ((1 + sqrt(g)) / 2)^2.
TEST_F(Basis, AutomaticScalesNeedTheirGain) {
  const auto gain = [](double g) { return (1 + g) / 2 / std::pow((1 + std::sqrt(g)) / 2, 2); };
  double low = 1, high = 1000;
  while (high - low > 1e-9 * low) {
    const double middle = (low + high) / 2;
    (gain(middle) < codec::kScaleGain ? low : high) = middle;
  }
  constants.k_energy.assign(kPairs, 2);
  for (const double factor : {0.99, 1.01}) {
    constants.q_energy.assign(kPairs, 1);
    for (std::size_t j = 0; j < kPairs / 2; ++j) constants.q_energy[2 * j] = static_cast<float>(factor * low);
    EXPECT_EQ(make("lm4,scale=auto").scale.empty(), factor < 1);
    EXPECT_NEAR(make("lm4,scale=auto").gain, gain(factor * low), 1e-6);
    EXPECT_FALSE(make("lm4,scale=weights").scale.empty());
    EXPECT_TRUE(make("lm4,scale=none").scale.empty());
  }
  constants.q_energy.assign(kPairs, 0);  // nothing known after all
  EXPECT_TRUE(make("lm4,scale=weights").scale.empty());
}

/// A pair without energy counts with 1e-4 of the mean.
TEST_F(Basis, NoPairIsLeftWithoutWeight) {
  constants.k_energy.assign(kPairs, 1);
  constants.q_energy.assign(kPairs, 1);
  constants.q_energy[5] = 0;
  constants.k_energy[9] = 0;
  const HeadBasis basis = make("f32,scale=weights");
  EXPECT_NEAR(std::log2(double{basis.scale[5]}), std::log2(1e-4) / 4, 0.1);
  EXPECT_NEAR(std::log2(double{basis.scale[9]}), -std::log2(1e-4) / 4, 0.1);
}

}  // namespace
}  // namespace kvant::cache
