#include <gmock/gmock.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <filesystem>
#include <map>
#include <tuple>

#include "base/file_io.h"
#include "cache/side.h"
#include "cache/test_codes.h"
#include "cache/test_text.h"
#include "codec/vector_codec.h"
#include "kernels/fwht/fwht.h"
#include "kernels/linear/linear.h"

namespace kvant::cache {
namespace {

using codec::CodePart;
using codec::HeadCode;
using codec::QuantizerKind;
using codec::ScaleFormat;
using testing::HasSubstr;

constexpr QuantizerKind kLm = QuantizerKind::lm, kUni = QuantizerKind::uni;
constexpr const char* kPlanned = "plan,plan=given";

/// Gives all heads of both sides codes and anchors; parts[i % parts.size()] to the i-th.
void add_plan(CacheConfig& config, const Text& text, const std::vector<std::vector<CodePart>>& parts,
              std::uint64_t seed) {
  const auto heads = static_cast<std::size_t>(config.kv_heads);
  config.rope = text.rope;
  std::size_t next = 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    LayerConstants& c = config.constants.emplace_back();
    const auto of_layer = seed == 0 ? 0 : seed + 100 * static_cast<std::uint64_t>(layer);
    if (seed > 0) {
      c.k_anchor = normals(heads * config.head_dim, of_layer + 1);
      c.v_anchor = normals(heads * config.head_dim, of_layer + 2);
    }
    for (std::size_t head = 0; head < heads; ++head, ++next) {
      c.k_codes.push_back(
          make_head_code(config.head_dim, parts[next % parts.size()], seed == 0 ? 0 : of_layer + 10 + head));
      c.v_codes.push_back(
          make_head_code(config.head_dim, parts[(next + 1) % parts.size()], seed == 0 ? 0 : of_layer + 50 + head));
    }
  }
}

/// Lists of parts for a head: of many bits, few, and none.
std::vector<std::vector<CodePart>> some_parts(std::size_t head_dim) {
  const std::size_t dims = codec::coded_dims(head_dim);
  if (dims < 128) {
    return {{{dims - 32, kLm, 6}, {32, kUni, 8}},
            {{32, kLm, 5, ScaleFormat::log8}, {dims - 32, kLm, 3}},
            {{dims, kUni, 7}},
            {{dims - 32, kLm, 4}, {32, kLm, 0}}};
  }
  return {{{64, kLm, 6}, {64, kUni, 7}},
          {{64, kLm, 4}, {64, kLm, 2}},
          {{32, kLm, 5}, {96, kUni, 3, ScaleFormat::log8}},
          {{32, kUni, 8}, {32, kLm, 0}, {32, kLm, 1}, {32, kLm, 0}}};
}

/// A vector as codes keep it, in the basis of the codes: of dim i, scale[i] * level[i].
struct Stored {
  std::vector<double> scale, level;
  double operator[](std::size_t i) const { return scale[i] * level[i]; }
};

/// What a part is cut into.
struct Group {
  CodePart part;
  std::size_t first, size, largest;  ///< largest: size of the part's first group
};

std::vector<Group> groups_of(const std::vector<CodePart>& parts) {
  std::vector<Group> groups;
  std::size_t first = 0;
  for (const CodePart& part : parts) {
    const std::size_t end = first + part.dims, largest = std::bit_floor(part.dims);
    while (first < end) {
      groups.push_back({part, first, std::bit_floor(end - first), largest});
      first += groups.back().size;
    }
  }
  return groups;
}

/// The rotation of docs/formats.md, in its parts.
template <class T>
std::vector<float> rotated(const std::vector<CodePart>& parts, const std::vector<T>& x) {
  std::vector<float> y(x.begin(), x.end());
  std::size_t first = 0;
  for (const CodePart& part : parts) {
    Random signs(0x6b76616e74);
    for (std::size_t i = 0; i < part.dims && part.bits > 0; ++i) y[first + i] *= signs.uniform() < 0.5 ? -1.0F : 1.0F;
    first += part.dims;
  }
  for (const Group& g : groups_of(parts)) {
    if (g.part.bits > 0) kernels::fwht(Isa::scalar)(y.data() + g.first, g.size);
  }
  return y;
}

/// m [rows][cols] x in double, or (transposed) m^T x
std::vector<double> product(const std::vector<Bf16>& m, const std::vector<float>& x, bool transposed = false) {
  const std::size_t inner = x.size(), outer = m.size() / inner;
  std::vector<double> y(outer);
  for (std::size_t o = 0; o < outer; ++o) {
    for (std::size_t i = 0; i < inner; ++i) {
      y[o] += double{to_float(m[transposed ? i * outer + o : o * inner + i])} * double{x[i]};
    }
  }
  return y;
}

/// Of a group: with the levels of the part's first group.
const codec::Quantizer& quantizer(const Group& g) {
  static std::map<std::tuple<QuantizerKind, int, std::size_t, std::size_t>, codec::Quantizer> known;
  const auto [at, is_new] = known.try_emplace({g.part.kind, g.part.bits, g.size, g.largest});
  codec::Quantizer& q = at->second;
  if (!is_new) return q;
  q = codec::make_quantizer(g.part.kind, g.part.kind == kLm ? g.largest : g.size, g.part.bits);
  if (q.dimension != g.size) {
    q.gain *= static_cast<float>(std::sqrt(static_cast<double>(g.size) / static_cast<double>(g.largest)));
    q.dimension = g.size;
  }
  return q;
}

Stored encode(const HeadCode& code, const std::vector<float>& x) {
  // As is stored: products and sums in f32.
  std::vector<float> y(code.transform.size() / x.size());
  for (std::size_t d = 0; d < y.size(); ++d) {
    for (std::size_t i = 0; i < x.size(); ++i) y[d] += x[i] * to_float(code.transform[d * x.size() + i]);
  }
  y = rotated(code.parts, y);
  Stored stored{std::vector<double>(y.size()), std::vector<double>(y.size())};
  for (const Group& g : groups_of(code.parts)) {
    if (g.part.bits == 0) continue;
    const codec::Quantizer& q = quantizer(g);
    std::vector<std::uint8_t> codes(g.size);
    std::uint16_t scale = 0;
    EXPECT_TRUE(codec::encode_vector(q, g.part.norm, {y.data() + g.first, g.size}, codes, scale));
    for (std::size_t i = 0; i < g.size; ++i) {
      stored.scale[g.first + i] = double{codec::decode_scale(g.part.norm, scale)};
      stored.level[g.first + i] = q.levels[codes[i]];
    }
  }
  return stored;
}

std::vector<float> slice(const std::vector<float>& all, std::size_t first, std::size_t count) {
  const auto begin = all.begin() + static_cast<std::ptrdiff_t>(first);
  return {begin, begin + static_cast<std::ptrdiff_t>(count)};
}

/// What a KV head of layer 0 stores for each token.
struct StoredHead {
  const HeadCode& k_code;
  const HeadCode& v_code;
  std::vector<float> k_anchor, v_anchor;
  std::vector<Stored> keys, values;

  StoredHead(const Text& text, const CacheConfig& c, std::size_t head)
      : k_code(c.constants[0].k_codes[head]), v_code(c.constants[0].v_codes[head]) {
    k_anchor = slice(c.constants[0].k_anchor, head * c.head_dim, c.head_dim);
    v_anchor = slice(c.constants[0].v_anchor, head * c.head_dim, c.head_dim);
    for (std::size_t t = 0; t < text.tokens; ++t) {
      std::vector<float> k = slice(text.k, t * text.width() + head * c.head_dim, c.head_dim), v;
      for (std::size_t i = 0; i < c.head_dim; ++i) k[i] -= k_anchor[i];
      kernels::rope_apply(&text.angles[t * c.rope_pairs * 2], c.rope_pairs, k.data());
      keys.push_back(encode(k_code, k));
      v = slice(text.v, t * text.width() + head * c.head_dim, c.head_dim);
      for (std::size_t i = 0; i < c.head_dim; ++i) v[i] -= v_anchor[i];
      values.push_back(encode(v_code, v));
    }
  }
};

/// q . R_t a
double anchor_logit(const Text& text, const std::vector<float>& q, const std::vector<float>& a, std::size_t t) {
  const std::size_t pairs = text.config.rope_pairs;
  double dot = 0;
  for (std::size_t j = 0; j < pairs; ++j) {
    const double angle = static_cast<double>(t) * text.rope.theta[j], c = std::cos(angle), s = std::sin(angle);
    dot += q[j] * (a[j] * c - a[j + pairs] * s) + q[j + pairs] * (a[j] * s + a[j + pairs] * c);
  }
  return dot;
}

struct Expected {
  std::vector<double> out;
  double tolerance = 0;
};

/// Attention of a query over what is stored, in double. The tolerance is made of the rounding of the query to 8 bits
/// (15 where a part has 6 bits or more), which is off by unit / sqrt(12) in each dim, and that of weights times scales
/// to 1 / 255 (1 / 16383 above 4 bits) of a page's largest, dithered: unit / sqrt(6). Six times what such errors add up
/// to, and roundings of f32 as for other types (kv_cache_test.cpp), of which sums over dims have more here.
Expected attend(const Text& text, const StoredHead& head, std::size_t query_head, std::size_t token) {
  const CacheConfig& c = text.config;
  const std::vector<float> q = slice(text.q, token * text.query_width() + query_head * c.head_dim, c.head_dim);
  const std::vector<float> u = rotated(head.k_code.parts, product(head.k_code.inverse, q));
  const double scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  std::vector<double> logits;
  double logit_error = 0, magnitude = 0;
  for (std::size_t t = 0; t <= token; ++t) {
    double dot = anchor_logit(text, q, head.k_anchor, t), noise = 0, terms = 0;
    for (const Group& g : groups_of(head.k_code.parts)) {
      double peak = 0, energy = 0;
      for (std::size_t i = g.first; i < g.first + g.size; ++i) {
        dot += u[i] * head.keys[t][i];
        terms += std::abs(u[i] * head.keys[t][i]);
        peak = std::max(peak, std::abs(double{u[i]}));
        energy += head.keys[t][i] * head.keys[t][i];
      }
      const double unit = peak / 127 / (g.part.bits >= 6 ? 254 : 1);
      noise += unit * unit / 12 * energy;
    }
    logits.push_back(scale * dot);
    logit_error = std::max(logit_error, scale * 6 * std::sqrt(noise));
    magnitude = std::max(magnitude, scale * (terms + std::abs(dot)));
  }
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0, largest = 0;
  for (double& w : logits) sum += w = std::exp(w - greatest);
  const std::size_t dims = head.values[0].level.size();
  std::vector<float> mixed(dims), noise(dims);
  for (std::size_t i = 0; i < dims; ++i) {
    double total = 0;
    for (std::size_t t = 0; t <= token; ++t) total += logits[t] / sum * head.values[t][i];
    mixed[i] = static_cast<float>(total);
  }
  for (const Group& g : groups_of(head.v_code.parts)) {
    for (std::size_t page = 0; page <= token; page += kPageTokens) {
      const std::size_t end = std::min(token + 1, page + kPageTokens);
      double peak = 0, energy = 0;
      for (std::size_t t = page; t < end; ++t) {
        peak = std::max(peak, logits[t] / sum * head.values[t].scale[g.first]);
        for (std::size_t i = g.first; i < g.first + g.size; ++i) {
          energy += std::pow(head.values[t].level[i], 2) / static_cast<double>(g.size);
          largest = std::max(largest, std::abs(head.values[t][i]));
        }
      }
      const double unit = peak / (g.part.bits <= 4 ? 255 : 16383);
      for (std::size_t i = g.first; i < g.first + g.size; ++i) noise[i] += static_cast<float>(unit * unit / 6 * energy);
    }
  }
  Expected e;
  // The rotation is orthonormal and mixes all dims of a part; its inverse is its transpose.
  std::vector<double> back(dims);
  for (std::size_t i = 0; i < dims; ++i) {
    std::vector<float> unit(dims);
    unit[i] = 1;
    const std::vector<float> turned = rotated(head.v_code.parts, unit);
    back[i] = std::inner_product(turned.begin(), turned.end(), mixed.begin(), 0.0);
  }
  e.out = product(head.v_code.inverse, {back.begin(), back.end()}, true);
  for (std::size_t i = 0; i < c.head_dim; ++i) e.out[i] += head.v_anchor[i];
  double norm2 = 0;  // of the largest column of U
  for (std::size_t i = 0; i < c.head_dim; ++i) {
    double column = 0;
    for (std::size_t d = 0; d < dims; ++d) column += std::pow(to_float(head.v_code.inverse[d * c.head_dim + i]), 2);
    norm2 = std::max(norm2, column);
  }
  const double mix_error = 6 * std::sqrt(norm2 * double{*std::max_element(noise.begin(), noise.end())});
  const double value = std::sqrt(norm2 * static_cast<double>(dims)) * largest;
  e.tolerance = mix_error + (logit_error + 0x1p-24 * (32 + 4 * magnitude)) * value;
  return e;
}

void expect_matches_double(const CacheConfig& config, const Text& text, const std::vector<float>& out,
                           const std::vector<std::size_t>& tokens) {
  const std::size_t group = static_cast<std::size_t>(config.heads / config.kv_heads);
  for (std::size_t h = 0; h < static_cast<std::size_t>(config.kv_heads); ++h) {
    const StoredHead head(text, config, h);
    for (const std::size_t token : tokens) {
      for (std::size_t query = h * group; query < (h + 1) * group; ++query) {
        const Expected e = attend(text, head, query, token);
        const float* actual = &out[token * text.query_width() + query * config.head_dim];
        for (std::size_t i = 0; i < config.head_dim; ++i) {
          ASSERT_NEAR(double{actual[i]}, e.out[i], e.tolerance) << "head " << query << " token " << token << " " << i;
        }
      }
    }
  }
}

TEST(PlannedCache, AllShapesMatchAttentionInDouble) {
  ThreadPool pool(2);
  for (const Isa isa : supported_isas()) {
    for (const std::size_t head_dim : {64U, 80U, 96U, 128U}) {
      for (const int group : {1, 2, 6, 7}) {
        if (isa != supported_isas().back() && group != 2) continue;  // enough for the lesser tiers
        constexpr std::size_t kTokens = 75;
        SCOPED_TRACE(fmt::format("{} head_dim {} group {}", name(isa), head_dim, group));
        CacheConfig config = make_flat_config(head_dim, 4, group, kPlanned, kPlanned, kTokens);
        const Text text(config, kTokens, 40 + head_dim);
        add_plan(config, text, some_parts(head_dim), 7);
        const std::vector<float> out = text.run(config, pool, isa, group == 6 ? 1 : 41);
        expect_matches_double(config, text, out, {0, 63, kTokens - 1});
        if (HasFatalFailure()) return;
      }
    }
  }
}

/// One part of all dims in the basis as given is the type of those codes.
TEST(PlannedCache, OnePartInTheGivenBasisIsThatType) {
  ThreadPool pool(2);
  for (const std::size_t head_dim : {32U, 64U, 96U, 128U}) {
    for (const char* type : {"lm4", "lm1", "lm6", "uni7", "lm3,norm=log8"}) {
      SCOPED_TRACE(fmt::format("{} {}", head_dim, type));
      const codec::CacheSpec spec = codec::parse_cache_spec(type);
      CacheConfig config = make_config(head_dim, 3, kPlanned, kPlanned, 100);
      const Text text(config, 100, 3);
      const CacheConfig plain = make_config(head_dim, 3, type, type, 100);
      add_plan(config, text, {{{head_dim, type[0] == 'l' ? kLm : kUni, spec.bits, spec.norm}}}, 0);
      for (const Isa isa : supported_isas()) {
        EXPECT_EQ(text.run(config, pool, isa, 30), text.run(plain, pool, isa, 30)) << name(isa);
      }
      EXPECT_EQ(planned_usage(config, Isa::scalar).bytes(), planned_usage(plain, Isa::scalar).bytes());
    }
  }
}

struct Folder {
  std::filesystem::path path = std::filesystem::path(testing::TempDir()) / fmt::format("kvant_planned_{}", ::getpid());
  Folder() { std::filesystem::create_directories(path); }
  ~Folder() { std::filesystem::remove_all(path); }
};

std::string saved(const KvCache& cache) {
  const Folder folder;
  cache.save(folder.path / "cache");
  return read_text((folder.path / "cache").string());
}

/// The same bytes on every tier, and with the same outputs whatever the threads and chunks.
TEST(PlannedCache, BytesDependOnNothingButTheTokens) {
  ThreadPool one(1), three(3);
  for (const char* type : {kPlanned, "plan,plan=given,sinks=3,recent=20"}) {
    constexpr std::size_t kTokens = 600;
    CacheConfig config = make_flat_config(128, 4, 6, type, type, kTokens);
    const Text text(config, kTokens, 5);
    add_plan(config, text, some_parts(128), 9);
    std::string bytes;
    for (const Isa isa : supported_isas()) {
      KvCache cache(config, one, isa), other(config, three, isa);
      const std::vector<float> out = text.run(cache, kTokens);
      const std::size_t chunk = isa == supported_isas().back() ? 1 : 77;
      if (config.k.recent == 0) {
        EXPECT_EQ(text.run(other, chunk), out) << name(isa);  // with a window what is recent depends on the chunks
      } else {
        text.run(other, chunk);
      }
      if (bytes.empty()) bytes = saved(cache);
      EXPECT_TRUE(saved(cache) == bytes) << name(isa);
      EXPECT_TRUE(saved(other) == bytes) << name(isa);
    }
  }
}

TEST(PlannedCache, GoesOnAfterALoadAndOnlyWithTheSamePlan) {
  ThreadPool pool(2);
  const Folder folder;
  constexpr std::size_t kTokens = 140;
  CacheConfig config = make_config(80, 2, "plan,plan=given,recent=9", "plan,plan=given,sinks=2", kTokens);
  const Text text(config, kTokens, 6);
  add_plan(config, text, some_parts(80), 11);
  KvCache cache(config, pool, supported_isas().back());
  std::vector<float> out(text.q.size()), again(text.q.size());
  text.feed(cache, 0, 0, 100, out);
  cache.save(folder.path / "state");
  text.feed(cache, 0, 100, 40, out);
  KvCache other(config, pool, Isa::scalar);
  other.load(folder.path / "state");
  KvCache loaded(config, pool, supported_isas().back());
  loaded.load(folder.path / "state");
  text.feed(loaded, 0, 100, 40, again);
  const std::size_t from = 100 * text.query_width();
  EXPECT_TRUE(std::equal(out.begin() + static_cast<std::ptrdiff_t>(from), out.end(),
                         again.begin() + static_cast<std::ptrdiff_t>(from)));
  const auto refuses = [&](const char* what, const auto& change) {
    CacheConfig changed = config;
    change(changed.constants[1]);
    KvCache wrong(changed, pool, Isa::scalar);
    EXPECT_THAT(error_of(ErrorCode::invalid_argument, [&] { wrong.load(folder.path / "state"); }), HasSubstr(what));
  };
  refuses("constants of the keys", [](LayerConstants& c) { c.k_codes[1].transform[5].bits ^= 1; });
  refuses("constants of the keys", [](LayerConstants& c) { c.k_codes[0].inverse[5].bits ^= 1; });
  refuses("constants of the values", [](LayerConstants& c) { c.v_codes[0].parts[0].norm = ScaleFormat::log8; });
  refuses("constants of the values", [](LayerConstants& c) { std::swap(c.v_codes[0], c.v_codes[1]); });
}

/// Tokens of the window are f16: with all in it, outputs are those of an f16 cache, but for U, a rounded inverse.
TEST(PlannedCache, TheWindowHoldsAllDims) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 70;
  for (const std::size_t head_dim : {80U, 128U}) {
    CacheConfig config = make_flat_config(head_dim, 2, 2, "plan,plan=given,recent=70", "plan,plan=given,sinks=70", 70);
    const Text text(config, kTokens, 12);
    add_plan(config, text, {{{codec::coded_dims(head_dim), kLm, 0}}}, 13);
    const std::vector<float> out = text.run(config, pool, supported_isas().back(), 8);
    double error = 0, energy = 0;
    for (std::size_t h = 0; h < 4; ++h) {
      const Exact exact = attend_exactly(text, h, kTokens - 1);
      error += squared_error(text, out, h, kTokens - 1, exact.out);
      energy += std::inner_product(exact.out.begin(), exact.out.end(), exact.out.begin(), 0.0);
    }
    // U is off by up to 2^-9 of each entry, of keys and of values, with T of a condition of about 4; f16 by far less.
    EXPECT_LT(std::sqrt(error / energy), 2 * 4 * 0x1p-9) << head_dim;
    EXPECT_GT(std::sqrt(error / energy), 0x1p-13) << head_dim;
  }
}

TEST(PlannedCache, PartsWithoutBitsCountAsZeros) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 66;
  CacheConfig config = make_flat_config(64, 1, 2, kPlanned, "f32", kTokens);
  Text text(config, kTokens, 14);
  add_plan(config, text, {{{64, kLm, 0}}}, 0);
  EXPECT_EQ(planned_usage(config, Isa::scalar).k_bytes, 0u);
  for (const Isa isa : supported_isas()) {  // keys of nothing: all tokens weigh the same
    const std::vector<float> out = text.run(config, pool, isa, 9);
    for (std::size_t i = 0; i < 64; ++i) {
      double mean = 0;
      for (std::size_t t = 0; t < kTokens; ++t) mean += text.v[t * 64 + i] / static_cast<double>(kTokens);
      EXPECT_NEAR(double{out[(kTokens - 1) * 128 + i]}, mean, 1e-6);
    }
  }
  config.k = codec::parse_cache_spec("f32");
  config.v = codec::parse_cache_spec(kPlanned, codec::PageSide::value);
  config.constants[0].v_anchor = normals(64, 15);
  for (const float bad : {std::nanf(""), 1e20F}) {  // nothing of it would be kept, yet it is not a value
    text.v[20 * 64 + 7] = bad;
    EXPECT_THAT(error_of(ErrorCode::format, [&] { text.run(config, pool, Isa::scalar, 66); }),
                HasSubstr("values of layer 0, KV head 0, position 20"));
  }
  text.v[20 * 64 + 7] = 0;
  const std::vector<float> out = text.run(config, pool, supported_isas().back(), 66);
  for (std::size_t i = 0; i < out.size(); ++i) ASSERT_EQ(out[i], config.constants[0].v_anchor[i % 64]);
}

/// Each side planned with every type of the other: the errors of both add up.
TEST(PlannedCache, WorksBesideAllOtherTypes) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 90;
  CacheConfig config = make_flat_config(128, 1, 2, "f32", "f32", kTokens);
  const Text text(config, kTokens, 31);
  add_plan(config, text, {{{64, kLm, 5}, {64, kLm, 4}}}, 17);
  config.constants[0].k_anchor.clear();
  config.constants[0].v_anchor.clear();
  const auto error = [&](const std::string& k, const std::string& v) {
    config.k = codec::parse_cache_spec(k);
    config.v = codec::parse_cache_spec(v, codec::PageSide::value);
    const std::vector<float> out = text.run(config, pool, supported_isas().back(), 70);
    double sum = 0;
    for (std::size_t token = 50; token < kTokens; ++token) {
      for (std::size_t h = 0; h < 2; ++h) {
        sum += squared_error(text, out, h, token, attend_exactly(text, h, token).out);
      }
    }
    return sum;
  };
  const double keys = error(kPlanned, "f32"), values = error("f32", kPlanned);
  for (const std::string type :
       {"f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "rot-q8_0", "rot-q4_0", "lm1",
        "lm2", "lm3", "lm4",  "lm5",  "lm6",  "uni2", "uni4", "uni7", "uni8",     kPlanned}) {
    const double of_values = keys + error("f32", type), of_keys = values + error(type, "f32");
    EXPECT_NEAR(error(kPlanned, type) / of_values, 1, 0.5) << type;
    EXPECT_NEAR(error(type, kPlanned) / of_keys, 1, 0.5) << type;
  }
}

TEST(PlannedCache, BytesAndConstantsAreCounted) {
  ThreadPool pool(1);
  constexpr std::size_t kTokens = 130;  // 3 pages
  CacheConfig config = make_config(128, 1, kPlanned, kPlanned, kTokens);
  const Text text(config, kTokens, 1);
  add_plan(config, text, {{{64, kLm, 4}, {64, kLm, 2}}, {{96, kLm, 3}, {32, kUni, 8, ScaleFormat::log8}}}, 19);
  const CacheUsage usage = planned_usage(config, Isa::scalar);
  // Codes, and scales of 64, 64 and of 64, 32, 32 dims; two heads of each kind on both sides.
  const std::size_t first = 8 * (64 * 4 + 64 * 2) + 64 * 2 * 2, second = 8 * (96 * 3 + 32 * 8) + 64 * (2 + 2 + 1);
  EXPECT_EQ(usage.k_bytes, 2 * 3 * (first + second));
  EXPECT_EQ(usage.v_bytes, usage.k_bytes);
  EXPECT_EQ(codec::page_bytes(config.constants[0].k_codes[0].parts), first);
  EXPECT_EQ(codec::page_bytes(config.constants[0].k_codes[1].parts), second);
  const std::size_t matrices = 8 * 2 * 128 * 128 * sizeof(Bf16);
  EXPECT_GE(usage.constant_bytes, matrices);
  EXPECT_LT(usage.constant_bytes, matrices + 100'000);  // anchors with their tables; codecs are shared
  const KvCache cache(config, pool, Isa::scalar);
  EXPECT_EQ(cache.usage().constant_bytes, usage.constant_bytes);
  EXPECT_GE(cache.usage().k_bytes, usage.k_bytes);
}

/// Fast pairs of an anchor stay in the keys while they add at most 2 % to the energy of a key as it is stored.
TEST(PlannedCache, PairsOfTheAnchorAreWeighedWhereKeysAreStored) {
  constexpr std::size_t kDims = 128, kPairs = kDims / 2;
  kernels::RopeConfig rope;
  rope.dims = kDims;
  rope.base = 1e6;
  const kernels::AnchorAngles angles(kernels::rope_frequencies(rope), 256);
  LayerConstants constants;
  constants.k_energy.assign(kPairs, 1);
  constants.k_codes.push_back(make_head_code(kDims, {{kDims, kLm, 4}}, 0));
  constants.k_anchor = normals(kDims, 3);
  std::vector<double> added;
  double energy = 0;
  for (std::size_t j = 0; j < kPairs; ++j) {
    const float factors[] = {1, 8, 0.125F, 2};
    for (const std::size_t i : {j, j + kPairs}) {
      constants.k_anchor[i] *= 0.5F;
      constants.k_codes[0].transform[i * kDims + i] = to_bf16(factors[j % 4]);
    }
    const double weight = std::pow(factors[j % 4], 2);
    energy += weight;
    added.push_back(weight * (std::pow(constants.k_anchor[j], 2) + std::pow(constants.k_anchor[j + kPairs], 2)));
  }
  std::vector<std::size_t> fast;
  for (std::size_t j = 0; j < kPairs; ++j) {
    if (!angles.slow(j)) fast.push_back(j);
  }
  std::sort(fast.begin(), fast.end(), [&](std::size_t a, std::size_t b) { return added[a] < added[b]; });
  Maps maps({&constants, 1});
  const HeadBasis basis =
      make_key_basis(codec::parse_cache_spec(kPlanned), constants, 0, kDims, &angles, maps, Isa::scalar);
  std::size_t dropped = 0;
  for (double left = 0.02 * energy; dropped < fast.size() && added[fast[dropped]] <= left; ++dropped) {
    left -= added[fast[dropped]];
  }
  EXPECT_GT(dropped, 2u);
  EXPECT_LT(dropped, fast.size());
  for (std::size_t n = 0; n < fast.size(); ++n) EXPECT_EQ(basis.anchor[fast[n]] == 0, n < dropped) << fast[n];
  for (std::size_t j = 0; j < kPairs; ++j) {
    if (angles.slow(j)) {
      EXPECT_EQ(basis.anchor[j], constants.k_anchor[j]) << j;
    }
  }
  EXPECT_TRUE(basis.scale.empty());
}

TEST(PlannedCache, WrongCodesAreRefused) {
  ThreadPool pool(1);
  CacheConfig good = make_config(64, 1, kPlanned, kPlanned, 10);
  add_plan(good, Text(good, 1, 1), {{{64, kLm, 4}}}, 1);
  const auto error = [&](const auto& change) {
    CacheConfig config = good;
    change(config);
    return error_of(ErrorCode::invalid_argument, [&] { KvCache(config, pool, Isa::scalar); });
  };
  EXPECT_EQ(error([](CacheConfig&) {}), "no error");
  EXPECT_THAT(error([](CacheConfig& c) { c.constants.clear(); }), HasSubstr("constants of 0 layers, expected 2"));
  EXPECT_THAT(error([](CacheConfig& c) { c.constants[1].v_codes.pop_back(); }),
              HasSubstr("codes for the values of 1 heads of layer 1, expected 2"));
  EXPECT_THAT(error([](CacheConfig& c) { c.constants[1].k_codes[1].transform.pop_back(); }),
              HasSubstr("keys of layer 1, KV head 1: transform of 4095 values, expected 4096"));
  EXPECT_THAT(error([](CacheConfig& c) { c.constants[0].v_codes[0].parts[0].bits = 7; }),
              HasSubstr("values of layer 0, KV head 0: part 0: 7 bits"));
  EXPECT_THAT(error([](CacheConfig& c) {
                c.constants[0].v_codes[0].parts.push_back({32, kLm, 4});
              }),
              HasSubstr("values of layer 0, KV head 0: part 1: 32 dims, 0 are left"));
  EXPECT_THAT(error([](CacheConfig& c) { c.constants[0].k_codes[0].inverse[9] = to_bf16(INFINITY); }),
              HasSubstr("keys of layer 0, KV head 0: inverse: value 9 is inf"));
}

}  // namespace
}  // namespace kvant::cache
