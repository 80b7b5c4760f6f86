#include "cache/kv_cache.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "base/checked.h"
#include "cache/test_text.h"
#include "gguf/blocks.h"
#include "kernels/fwht/fwht.h"

namespace kvant::cache {
namespace {

using testing::HasSubstr;
constexpr const char* kTypes[] = {"f32",  "f16",      "bf16",     "q8_0",     "q5_1",     "q5_0",    "q4_1",
                                  "q4_0", "rot-q8_0", "rot-q5_1", "rot-q5_0", "rot-q4_1", "rot-q4_0"};

/// A head as the cache stores and reads it, by the reference codecs.
std::vector<double> stored(const Text& text, const codec::CacheSpec& spec, const float* x, const float* rope) {
  const std::size_t head_dim = text.config.head_dim;
  std::vector<float> head(round_up(head_dim, gguf::kBlock));
  std::copy_n(x, head_dim, head.begin());
  if (rope != nullptr) kernels::rope_apply(rope, text.config.rope_pairs, head.data());
  if (spec.rotated) kernels::rotate_head(kernels::fwht(Isa::scalar), head.data(), head_dim);
  std::vector<std::byte> bytes(codec::vector_bytes(spec, head_dim));
  gguf::quantize(spec.type, head, bytes.data());
  gguf::dequantize(spec.type, bytes.data(), head);
  return {head.begin(), head.begin() + static_cast<std::ptrdiff_t>(head_dim)};
}

/// The first `count` keys (keys = true) or values of a KV head as the cache reads them.
std::vector<std::vector<double>> stored_head(const Text& text, bool keys, std::size_t kv_head, std::size_t count) {
  const CacheConfig& c = text.config;
  std::vector<std::vector<double>> heads(count);
  for (std::size_t t = 0; t < count; ++t) {
    const std::size_t at = t * text.width() + kv_head * c.head_dim;
    heads[t] = keys ? stored(text, c.k, &text.k[at], &text.angles[t * c.rope_pairs * 2])
                    : stored(text, c.v, &text.v[at], nullptr);
  }
  return heads;
}

/// The Hadamard transform of a head in double, straight from its definition.
std::vector<double> rotate(const std::vector<double>& x) {
  std::vector<double> y;
  for (std::size_t at = 0; at < x.size();) {
    const std::size_t n = std::min<std::size_t>(64, std::bit_floor(x.size() - at));
    for (std::size_t i = 0; i < n; ++i) {
      double sum = 0;
      for (std::size_t j = 0; j < n; ++j) sum += std::popcount(i & j) % 2 == 0 ? x[at + j] : -x[at + j];
      y.push_back(sum / std::sqrt(static_cast<double>(n)));
    }
    at += n;
  }
  return y;
}

using Heads = std::vector<std::vector<double>>;

/// Attention of one query over the first `count` keys and values. The tolerance is the first-order rounding error of
/// f32: each logit is off by eps times a random walk over the products of head_dim values, which scales its weight by
/// as much; the rest is a few roundings of the largest value.
std::vector<double> attend_in_double(const std::vector<double>& query, const Heads& keys, const Heads& values,
                                     std::size_t count, double& tolerance) {
  const auto dot = [](const std::vector<double>& a, const std::vector<double>& b) {
    return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
  };
  const auto d = static_cast<double>(query.size());
  std::vector<double> logits(count), sum(query.size());
  double largest_product = 0;
  for (std::size_t t = 0; t < count; ++t) {
    logits[t] = dot(query, keys[t]) / std::sqrt(d);
    largest_product = std::max(largest_product, std::sqrt(dot(query, query) * dot(keys[t], keys[t]) / d));
  }
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double weight = 0;
  double largest_value = 0;
  for (std::size_t t = 0; t < count; ++t) {
    const double w = std::exp(logits[t] - greatest);
    weight += w;
    for (std::size_t i = 0; i < sum.size(); ++i) {
      sum[i] += w * values[t][i];
      largest_value = std::max(largest_value, std::abs(values[t][i]));
    }
  }
  for (double& x : sum) x /= weight;
  tolerance = 0x1p-24 * (16 + 2 * largest_product) * largest_value;
  return sum;
}

void expect_matches_reference(const Text& text, const std::vector<float>& out, const std::vector<std::size_t>& tokens) {
  const CacheConfig& c = text.config;
  const std::size_t group = static_cast<std::size_t>(c.heads / c.kv_heads);
  for (std::size_t h = 0; h < static_cast<std::size_t>(c.kv_heads); ++h) {
    const Heads keys = stored_head(text, true, h, tokens.back() + 1);
    const Heads values = stored_head(text, false, h, tokens.back() + 1);
    for (std::size_t token : tokens) {
      for (std::size_t head = h * group; head < (h + 1) * group; ++head) {
        const std::size_t at = token * text.query_width() + head * c.head_dim;
        std::vector<double> query(text.q.begin() + static_cast<std::ptrdiff_t>(at),
                                  text.q.begin() + static_cast<std::ptrdiff_t>(at + c.head_dim));
        if (c.k.rotated) query = rotate(query);
        double tolerance = 0;
        std::vector<double> expected = attend_in_double(query, keys, values, token + 1, tolerance);
        if (c.v.rotated) expected = rotate(expected);
        for (std::size_t i = 0; i < expected.size(); ++i) {
          ASSERT_NEAR(static_cast<double>(out[at + i]), expected[i], tolerance)
              << "token " << token << " head " << head << " i " << i;
        }
      }
    }
  }
}

TEST(KvCache, AllTypePairsMatchAttentionInDouble) {
  ThreadPool pool(2);
  for (Isa isa : supported_isas()) {
    for (const char* k : kTypes) {
      for (const char* v : kTypes) {
        if (isa != supported_isas().back() && k != v) continue;  // enough for the lesser tiers
        SCOPED_TRACE(fmt::format("{} {} {}", name(isa), k, v));
        const Text text(make_config(64, 2, k, v), 70, 1);
        KvCache cache(text.config, pool, isa);
        expect_matches_reference(text, text.run(cache, 41), {0, 40, 69});
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(KvCache, AllShapesMatchAttentionInDouble) {
  ThreadPool pool(2);
  for (Isa isa : supported_isas()) {
    for (std::size_t head_dim : {8U, 64U, 80U, 96U, 128U, 256U}) {
      for (int group : {1, 2, 6, 7, 16}) {
        if (isa != supported_isas().back() && group != 7 && group != 2) continue;  // enough for the lesser tiers
        for (std::size_t tokens : {1U, 63U, 64U, 65U, 200U}) {
          SCOPED_TRACE(fmt::format("{} head_dim {} group {} tokens {}", name(isa), head_dim, group, tokens));
          const bool rotated = group % 2 == 0;
          const Text text(make_config(head_dim, group, rotated ? "rot-q8_0" : "f32", rotated ? "rot-q5_1" : "f32"),
                          tokens, tokens);
          KvCache cache(text.config, pool, isa);
          expect_matches_reference(text, text.run(cache, tokens), {0, tokens / 2, tokens - 1});
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

/// The same bits whatever the threads, the chunks of the prefill and the other sequences of the batch, on every tier.
TEST(KvCache, ResultsDependOnNothingButTheSequence) {
  ThreadPool one(1);
  ThreadPool three(3);
  for (Isa isa : supported_isas()) {
    const bool best = isa == supported_isas().back();
    for (const char* type : best ? std::vector{"f16", "rot-q4_0"} : std::vector{"q8_0"}) {
      SCOPED_TRACE(fmt::format("{} {}", name(isa), type));
      const std::size_t tokens = best ? 1100 : 530;
      CacheConfig config = make_config(64, 7, type, type, tokens);
      config.layers = 1;
      config.sequences = 2;
      const Text text(config, tokens, 5);
      KvCache whole(config, one, isa);
      const std::vector<float> expected = text.run(whole, tokens);
      for (std::size_t chunk : {1U, 8U, 100U}) {
        KvCache cache(config, three, isa);
        ASSERT_EQ(text.run(cache, chunk, 1), expected) << chunk;
      }
      // Two sequences in one batch, at different depths: the first in chunks of 90, the other one token at a time.
      KvCache cache(config, three, isa);
      std::vector<float> other(expected.size());
      text.feed(cache, 1, 0, 513, other);
      for (std::size_t i = 0; i < 5; ++i) {
        const std::size_t first = i * 90;
        const Segment segments[] = {{1, 90, 1, 513 + i}, {0, 0, 90, first}};
        const auto join = [&](const std::vector<float>& x, std::size_t width) {
          std::vector<float> rows(x.begin() + static_cast<std::ptrdiff_t>(first * width),
                                  x.begin() + static_cast<std::ptrdiff_t>((first + 90) * width));
          const auto at = static_cast<std::ptrdiff_t>((513 + i) * width);
          rows.insert(rows.end(), x.begin() + at, x.begin() + at + static_cast<std::ptrdiff_t>(width));
          return rows;
        };
        const auto q = join(text.q, text.query_width());
        const auto k = join(text.k, text.width());
        const auto v = join(text.v, text.width());
        const auto angles = join(text.angles, config.rope_pairs * 2);
        const Batch batch{segments, 91, angles.data()};
        std::vector<float> out(q.size());
        cache.append(0, batch, {k.data(), 91, text.width()}, {v.data(), 91, text.width()});
        cache.attend(0, batch, {q.data(), 91, text.query_width()}, {out.data(), 91, text.query_width()});
        ASSERT_EQ(out, join(expected, text.query_width()));
      }
    }
  }
}

TEST(KvCache, LongSequencesMatchAttentionInDouble) {
  ThreadPool pool(2);
  CacheConfig config = make_config(128, 6, "q8_0", "f16", 3000);
  config.layers = 1;
  const Text text(config, 3000, 9);
  KvCache cache(config, pool, supported_isas().back());
  std::vector<float> out(text.tokens * text.query_width());
  text.feed(cache, 0, 0, 2998, out);
  text.feed(cache, 0, 2998, 1, out);
  text.feed(cache, 0, 2999, 1, out);
  expect_matches_reference(text, out, {511, 512, 2997, 2999});
}

TEST(KvCache, TruncatedSequencesGoOnAsIfNothingHadFollowed) {
  ThreadPool pool(2);
  const Text text(make_config(64, 2, "q8_0", "q5_1"), 100, 3);
  KvCache cache(text.config, pool, Isa::scalar);
  const std::vector<float> expected = text.run(cache, 100);
  EXPECT_EQ(cache.length(0), 100u);
  cache.truncate(0, 200);
  EXPECT_EQ(cache.length(0), 100u);
  cache.truncate(0, 30);
  EXPECT_EQ(cache.length(0), 30u);
  std::vector<float> out(expected.size());
  text.feed(cache, 0, 30, 70, out);
  EXPECT_TRUE(std::equal(out.begin() + static_cast<std::ptrdiff_t>(30 * text.query_width()), out.end(),
                         expected.begin() + static_cast<std::ptrdiff_t>(30 * text.query_width())));
  cache.truncate(0, 0);
  EXPECT_EQ(text.run(cache, 7), expected);
}

TEST(KvCache, LengthIsWhatEveryLayerHolds) {
  ThreadPool pool(1);
  const Text text(make_config(8, 1, "f32", "f32"), 4, 3);
  KvCache cache(text.config, pool, Isa::scalar);
  const Segment segment{0, 0, 4, 0};
  const Batch batch{{&segment, 1}, 4, text.angles.data()};
  cache.append(0, batch, text.rows(text.k, 0, 4), text.rows(text.v, 0, 4));
  EXPECT_EQ(cache.length(0), 0u);  // a pass that stopped after the first layer
  cache.truncate(0, cache.length(0));
  std::vector<float> out(text.q.size());
  text.feed(cache, 0, 0, 4, out);
  EXPECT_EQ(cache.length(0), 4u);
}

TEST(KvCache, ScoreScaleAndPartialRope) {
  ThreadPool pool(1);
  CacheConfig config = make_config(64, 1, "f32", "f32");
  config.layers = 1;
  config.rope_pairs = 16;
  const Text text(config, 40, 3);
  KvCache cache(config, pool, Isa::scalar);
  EXPECT_FLOAT_EQ(cache.config().score_scale, 0.125F);
  const auto expected = text.run(cache, 40);
  expect_matches_reference(text, expected, {0, 39});
  config.score_scale = 0.25F;
  KvCache twice(config, pool, Isa::scalar);
  Text half(config, 40, 3);
  for (float& x : half.q) x *= 0.5F;
  EXPECT_EQ(half.run(twice, 40), expected);
}

TEST(KvCache, UsageIsWhatIsAllocated) {
  ThreadPool pool(1);
  CacheConfig config = make_config(128, 6, "f16", "q4_0", 4096);
  config.layers = 3;
  const CacheUsage usage = KvCache(config, pool, Isa::scalar).usage();
  EXPECT_EQ(usage.k_bytes, 3u * 2 * 4096 * 128 * 2);
  EXPECT_EQ(usage.v_bytes, 3u * 2 * 4096 * 4 * 18);
  EXPECT_DOUBLE_EQ(usage.k_bpv, 16);
  EXPECT_DOUBLE_EQ(usage.v_bpv, 4.5);
  EXPECT_GT(usage.workspace_bytes, 0u);
  // Padding counts: head_dim 80 is stored as 96 values, and 65 tokens as two pages.
  config = make_config(80, 1, "q8_0", "f32", 65);
  const CacheUsage padded = KvCache(config, pool, Isa::scalar).usage();
  EXPECT_GE(padded.k_bytes, 2u * 2 * 128 * 102);
  EXPECT_LE(padded.k_bytes, 2u * (2 * 128 * 102 + 4096));
  EXPECT_NEAR(padded.k_bpv, 8.0 * static_cast<double>(padded.k_bytes) / (65 * 2 * 2 * 80), 1e-12);
}

TEST(KvCache, MoreThanTheMemoryIsRefused) {
  ThreadPool pool(1);
  CacheConfig config = make_config(128, 1, "f32", "f32", 4'000'000'000);
  config.layers = 1000;
  EXPECT_THAT(error_of(ErrorCode::out_of_memory, [&] { KvCache(config, pool, Isa::scalar); }),
              testing::MatchesRegex("cache of 4000000000 tokens needs 7629394\\.5 GiB, [0-9.]+ GiB are available"));
  config.sequences = 4;
  EXPECT_THAT(error_of(ErrorCode::out_of_memory, [&] { KvCache(config, pool, Isa::scalar); }),
              HasSubstr("cache of 4 x 4000000000 tokens"));
}

TEST(KvCache, ImpossibleSizesAreNamed) {
  ThreadPool pool(1);
  const auto message = [&](auto change) {
    CacheConfig config = make_config(64, 2, "rot-q8_0", "f16");
    change(config);
    return error_of(ErrorCode::invalid_argument, [&] { KvCache(config, pool, Isa::scalar); });
  };
  EXPECT_THAT(message([](CacheConfig& c) { c.layers = 0; }), HasSubstr("0 layers"));
  EXPECT_THAT(message([](CacheConfig& c) { c.heads = 3; }),
              HasSubstr("3 heads, expected a multiple of the 2 KV heads"));
  EXPECT_THAT(message([](CacheConfig& c) { c.score_scale = -1; }), HasSubstr("score scale -1"));
  EXPECT_THAT(message([](CacheConfig& c) { c.head_dim = 0; }), HasSubstr("head_dim 0"));
  EXPECT_THAT(message([](CacheConfig& c) { c.head_dim = 4096; }), HasSubstr("head_dim 4096"));
  EXPECT_THAT(message([](CacheConfig& c) { c.head_dim = 65; }), HasSubstr("even"));
  EXPECT_THAT(message([](CacheConfig& c) { c.rope_pairs = 33; }), HasSubstr("33 RoPE pairs"));
  EXPECT_THAT(message([](CacheConfig& c) { c.capacity = 0; }), HasSubstr("capacity of 0"));
  EXPECT_THAT(message([](CacheConfig& c) { c.sequences = -1; }), HasSubstr("-1 sequences"));
}

TEST(KvCache, WrongBatchesAreNamed) {
  ThreadPool pool(1);
  CacheConfig config = make_config(8, 2, "f16", "f16", 10);
  config.sequences = 2;
  const Text text(config, 12, 3);
  KvCache cache(config, pool, Isa::scalar);
  std::vector<float> out(text.q.size());
  text.feed(cache, 0, 0, 4, out);
  const auto append = [&](std::vector<Segment> segments, std::size_t rows, int layer = 0, std::size_t width = 16) {
    return error_of(ErrorCode::invalid_argument, [&] {
      const MatView<const float> x(text.k.data(), rows, width);
      cache.append(layer, {segments, rows, text.angles.data()}, x, x);
    });
  };
  EXPECT_THAT(append({{0, 0, 2, 4}}, 2, 2), HasSubstr("layer 2, expected 0 to 1"));
  EXPECT_THAT(append({{2, 0, 2, 4}}, 2), HasSubstr("sequence 2, expected 0 to 1"));
  EXPECT_THAT(append({{0, 0, 1, 4}, {0, 1, 1, 5}}, 2), HasSubstr("twice"));
  EXPECT_THAT(append({{0, 0, 2, 3}}, 2), HasSubstr("position 3, layer 0 holds 4"));
  EXPECT_THAT(append({{0, 0, 7, 4}}, 7), HasSubstr("7 tokens after 4, its capacity is 10"));
  EXPECT_THAT(append({{0, 1, 2, 4}}, 2), HasSubstr("rows 1 to 3 of a batch of 2"));
  EXPECT_THAT(append({{0, 0, 2, 4}}, 3), HasSubstr("segments of 2 rows in a batch of 3"));
  EXPECT_THAT(append({{0, 0, 2, 4}}, 2, 0, 15), HasSubstr("k of [2,15], expected [2,16]"));
  EXPECT_EQ(cache.length(0), 4u);
  const Segment segment{0, 0, 2, 4};
  EXPECT_THAT(error_of(ErrorCode::invalid_argument,
                       [&] {
                         cache.attend(0, {{&segment, 1}, 2, nullptr}, text.rows(text.q, 0, 2),
                                      MatView<float>(out.data(), 2, text.query_width()));
                       }),
              HasSubstr("positions 4 to 5, layer 0 holds 4 tokens"));
  EXPECT_THAT(error_of(ErrorCode::invalid_argument, [&] { cache.length(2); }), HasSubstr("sequence 2"));
}

TEST(KvCache, NumbersThatCannotBeStoredAreRefused) {
  ThreadPool pool(2);
  Text text(make_config(8, 1, "f16", "q4_0"), 70, 3);
  KvCache cache(text.config, pool, supported_isas().back());
  std::vector<float> out(text.q.size());
  text.k[20 * 16 + 9] = std::nanf("");
  EXPECT_THAT(error_of(ErrorCode::format, [&] { text.feed(cache, 0, 0, 70, out); }),
              HasSubstr("keys of layer 0, KV head 1, position 20: NaN or more than f16 can hold"));
  EXPECT_EQ(cache.length(0), 0u);
  text.k[20 * 16 + 9] = 0;
  text.v[3] = 1e9F;
  EXPECT_THAT(error_of(ErrorCode::format, [&] { text.feed(cache, 0, 0, 70, out); }),
              HasSubstr("values of layer 0, KV head 0, position 0: NaN or more than q4_0 can hold (magnitude 524032)"));
  text.v[3] = 0;
  text.feed(cache, 0, 0, 70, out);
  EXPECT_EQ(cache.length(0), 70u);
}

}  // namespace
}  // namespace kvant::cache
