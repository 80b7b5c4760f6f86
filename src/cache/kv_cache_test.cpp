#include "cache/kv_cache.h"

#include <gmock/gmock.h>

#include <cmath>
#include <numeric>

#include "base/checked.h"
#include "base/random.h"
#include "gguf/blocks.h"
#include "kernels/fwht/fwht.h"
#include "kernels/rope/rope.h"

namespace kvant::cache {
namespace {

using testing::HasSubstr;
constexpr const char* kTypes[] = {"f32",  "f16",      "bf16",     "q8_0",     "q5_1",     "q5_0",    "q4_1",
                                  "q4_0", "rot-q8_0", "rot-q5_1", "rot-q5_0", "rot-q4_1", "rot-q4_0"};

CacheConfig make_config(std::size_t head_dim, int group, const char* k, const char* v, std::size_t capacity = 256) {
  CacheConfig c;
  c.layers = 2;
  c.kv_heads = 2;
  c.heads = 2 * group;
  c.head_dim = head_dim;
  c.rope_pairs = head_dim / 2;
  c.capacity = capacity;
  c.k = codec::parse_cache_spec(k);
  c.v = codec::parse_cache_spec(v);
  return c;
}

std::vector<float> normals(std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

/// Keys, values and queries of `tokens` tokens of one sequence and layer, and their attention in double.
struct Text {
  CacheConfig config;
  std::size_t tokens;
  std::vector<float> q, k, v, angles;

  Text(const CacheConfig& c, std::size_t n, std::uint64_t seed)
      : config(c),
        tokens(n),
        q(normals(n * query_width(), seed)),
        k(normals(n * width(), seed + 1)),
        v(normals(n * width(), seed + 2)),
        angles(n * c.rope_pairs * 2) {
    std::vector<std::size_t> positions(n);
    std::iota(positions.begin(), positions.end(), std::size_t{0});
    kernels::RopeConfig rope;
    rope.dims = 2 * c.rope_pairs;
    kernels::rope_angles(kernels::rope_frequencies(rope), positions, angles.data());
  }

  std::size_t width() const { return static_cast<std::size_t>(config.kv_heads) * config.head_dim; }
  std::size_t query_width() const { return static_cast<std::size_t>(config.heads) * config.head_dim; }
  MatView<const float> rows(const std::vector<float>& x, std::size_t first, std::size_t count) const {
    return MatView<const float>(x.data(), tokens, x.size() / tokens).rows_from(first, count);
  }

  /// Appends tokens [first, first + count) to a sequence in both layers, attends and writes the outputs' rows.
  void feed(KvCache& cache, int sequence, std::size_t first, std::size_t count, std::vector<float>& out) const {
    const Segment segment{sequence, 0, count, first};
    const Batch batch{{&segment, 1}, count, angles.data() + first * config.rope_pairs * 2};
    for (int layer = 0; layer < config.layers; ++layer) {
      cache.append(layer, batch, rows(k, first, count), rows(v, first, count));
      cache.attend(layer, batch, rows(q, first, count),
                   MatView<float>(out.data(), tokens, query_width()).rows_from(first, count));
    }
  }
  /// The outputs of all tokens fed in chunks of `chunk`.
  std::vector<float> run(KvCache& cache, std::size_t chunk, int sequence = 0) const {
    std::vector<float> out(tokens * query_width(), -1);
    for (std::size_t i = 0; i < tokens; i += chunk) feed(cache, sequence, i, std::min(chunk, tokens - i), out);
    return out;
  }

  /// A head as the cache stores and reads it, by the reference codecs.
  std::vector<double> stored(const codec::CacheSpec& spec, const float* x, const float* rope) const {
    std::vector<float> head(round_up(config.head_dim, gguf::kBlock));
    std::copy_n(x, config.head_dim, head.begin());
    if (rope != nullptr) kernels::rope_apply(rope, config.rope_pairs, head.data());
    if (spec.rotated) kernels::rotate_head(kernels::fwht(Isa::scalar), head.data(), config.head_dim);
    std::vector<std::byte> bytes(codec::vector_bytes(spec, config.head_dim));
    gguf::quantize(spec.type, head, bytes.data());
    gguf::dequantize(spec.type, bytes.data(), head);
    return {head.begin(), head.begin() + static_cast<std::ptrdiff_t>(config.head_dim)};
  }

  void attend_in_double(std::size_t token, std::size_t head, double* out, double& tolerance) const;
};

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

/// The tolerance is the first-order rounding error of f32: each logit is off by eps times a random walk over the
/// products of head_dim values, which scales its weight by as much; the rest is a few roundings of the largest value.
void Text::attend_in_double(std::size_t token, std::size_t head, double* out, double& tolerance) const {
  const std::size_t d = config.head_dim;
  const std::size_t kv_head = head * static_cast<std::size_t>(config.kv_heads) / static_cast<std::size_t>(config.heads);
  std::vector<double> query(d);
  for (std::size_t i = 0; i < d; ++i) query[i] = static_cast<double>(q[token * query_width() + head * d + i]);
  if (config.k.rotated) query = rotate(query);
  std::vector<double> sum(d), logits(token + 1);
  double weight = 0;
  double top = 0;
  double largest_product = 0;
  for (std::size_t t = 0; t <= token; ++t) {
    const auto key = stored(config.k, &k[t * width() + kv_head * d], &angles[t * config.rope_pairs * 2]);
    logits[t] = std::inner_product(query.begin(), query.end(), key.begin(), 0.0) / std::sqrt(static_cast<double>(d));
    const double norms = std::inner_product(query.begin(), query.end(), query.begin(), 0.0) *
                         std::inner_product(key.begin(), key.end(), key.begin(), 0.0);
    largest_product = std::max(largest_product, std::sqrt(norms / static_cast<double>(d)));
  }
  const double greatest = *std::max_element(logits.begin(), logits.end());
  for (std::size_t t = 0; t <= token; ++t) {
    const auto value = stored(config.v, &v[t * width() + kv_head * d], nullptr);
    const double w = std::exp(logits[t] - greatest);
    for (std::size_t i = 0; i < d; ++i) {
      sum[i] += w * value[i];
      top = std::max(top, std::abs(value[i]));
    }
    weight += w;
  }
  for (double& x : sum) x /= weight;
  if (config.v.rotated) sum = rotate(sum);
  std::copy(sum.begin(), sum.end(), out);
  tolerance = 0x1p-24 * (16 + 2 * largest_product) * top;
}

void expect_matches_reference(const Text& text, const std::vector<float>& out, const std::vector<std::size_t>& tokens) {
  std::vector<double> expected(text.config.head_dim);
  for (std::size_t token : tokens) {
    for (std::size_t h = 0; h < static_cast<std::size_t>(text.config.heads); ++h) {
      double tolerance = 0;
      text.attend_in_double(token, h, expected.data(), tolerance);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const float got = out[token * text.query_width() + h * expected.size() + i];
        ASSERT_NEAR(static_cast<double>(got), expected[i], tolerance)
            << "token " << token << " head " << h << " i " << i;
      }
    }
  }
}

TEST(KvCache, AllTypePairsMatchAttentionInDouble) {
  ThreadPool pool(2);
  for (Isa isa : supported_isas()) {
    for (const char* k : kTypes) {
      for (const char* v : kTypes) {
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
    for (std::size_t head_dim : {8, 64, 80, 96, 128, 256}) {
      for (int group : {1, 2, 6, 7, 16}) {
        for (std::size_t tokens : {1, 63, 64, 65, 200}) {
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

}  // namespace
}  // namespace kvant::cache
