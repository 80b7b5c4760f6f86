#pragma once
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "cache/kv_cache.h"
#include "kernels/rope/rope.h"

/// What the tests of the cache share: random texts to feed, and their attention in double.
namespace kvant::cache {

inline CacheConfig make_config(std::size_t head_dim, int group, const std::string& k, const std::string& v,
                               std::size_t capacity = 256) {
  CacheConfig c;
  c.layers = 2;
  c.kv_heads = 2;
  c.heads = 2 * group;
  c.head_dim = head_dim;
  c.rope_pairs = head_dim / 2;
  c.capacity = capacity;
  c.k = codec::parse_cache_spec(k);
  c.v = codec::parse_cache_spec(v, codec::PageSide::value);
  return c;
}

/// The same with one layer, `kv_heads` KV heads and `group` query heads for each.
inline CacheConfig make_flat_config(std::size_t head_dim, int kv_heads, int group, const std::string& k,
                                    const std::string& v, std::size_t capacity = 256) {
  CacheConfig c = make_config(head_dim, group, k, v, capacity);
  c.layers = 1;
  c.kv_heads = kv_heads;
  c.heads = kv_heads * group;
  return c;
}

inline std::vector<float> normals(std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

template <class Function>
std::string error_of(ErrorCode code, Function f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "no error";
}

/// Keys, values and queries of `tokens` tokens of one sequence, the same in all layers.
struct Text {
  CacheConfig config;
  std::size_t tokens;
  kernels::RopeFrequencies rope;
  std::vector<float> q, k, v, angles;

  Text(const CacheConfig& c, std::size_t n, std::uint64_t seed, kernels::RopeConfig rope_config = {})
      : config(c),
        tokens(n),
        q(normals(n * query_width(), seed)),
        k(normals(n * width(), seed + 1)),
        v(normals(n * width(), seed + 2)),
        angles(n * c.rope_pairs * 2) {
    std::vector<std::size_t> positions(n);
    std::iota(positions.begin(), positions.end(), std::size_t{0});
    rope_config.dims = 2 * c.rope_pairs;
    rope = kernels::rope_frequencies(rope_config);
    kernels::rope_angles(rope, positions, angles.data());
  }

  std::size_t width() const { return static_cast<std::size_t>(config.kv_heads) * config.head_dim; }
  std::size_t query_width() const { return static_cast<std::size_t>(config.heads) * config.head_dim; }
  MatView<const float> rows(const std::vector<float>& x, std::size_t first, std::size_t count) const {
    return MatView<const float>(x.data(), tokens, x.size() / tokens).rows_from(first, count);
  }

  /// Appends tokens [first, first + count) to a sequence in all layers.
  void append(KvCache& cache, int sequence, std::size_t first, std::size_t count) const {
    const Segment segment{sequence, 0, count, first};
    const Batch batch{{&segment, 1}, count, angles.data() + first * config.rope_pairs * 2};
    for (int layer = 0; layer < config.layers; ++layer) {
      cache.append(layer, batch, rows(k, first, count), rows(v, first, count));
    }
  }
  /// Appends tokens [first, first + count) to a sequence in all layers, attends and writes the outputs' rows.
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
  /// The outputs in a new cache of this configuration.
  std::vector<float> run(const CacheConfig& c, ThreadPool& pool, Isa isa, std::size_t chunk) const {
    KvCache cache(c, pool, isa);
    return run(cache, chunk);
  }
};

/// One query of a text with all that it sees, in double: the keys as given, without any codec.
struct Exact {
  std::vector<double> logits, weights, out;  ///< of the tokens; the output of head_dim values
  double largest_product = 0;                ///< score_scale |q| |k|
  double largest_value = 0;                  ///< |v|
};

inline Exact attend_exactly(const Text& text, std::size_t head, std::size_t token) {
  const CacheConfig& c = text.config;
  const std::size_t dims = c.head_dim, pairs = c.rope_pairs;
  const std::size_t kv_head = head / static_cast<std::size_t>(c.heads / c.kv_heads);
  const float* q = text.q.data() + token * text.query_width() + head * dims;
  const double scale = c.score_scale == 0 ? 1 / std::sqrt(static_cast<double>(dims)) : double{c.score_scale};
  const double query_norm = std::sqrt(std::inner_product(q, q + dims, q, 0.0));
  Exact e;
  e.out.resize(dims);
  for (std::size_t t = 0; t <= token; ++t) {
    const float* k = text.k.data() + t * text.width() + kv_head * dims;
    const float* v = text.v.data() + t * text.width() + kv_head * dims;
    double dot = 0, norm2 = 0, value2 = 0;
    for (std::size_t j = 0; j < pairs; ++j) {
      const double angle = static_cast<double>(t) * text.rope.theta[j], x = k[j], y = k[j + pairs];
      const double cosine = std::cos(angle), sine = std::sin(angle);
      dot += text.rope.magnitude * (q[j] * (x * cosine - y * sine) + q[j + pairs] * (x * sine + y * cosine));
    }
    for (std::size_t i = 2 * pairs; i < dims; ++i) dot += double{q[i]} * k[i];
    for (std::size_t i = 0; i < dims; ++i) {
      norm2 += double{k[i]} * k[i];
      value2 += double{v[i]} * v[i];
    }
    e.logits.push_back(scale * dot);
    e.largest_product = std::max(e.largest_product, scale * text.rope.magnitude * query_norm * std::sqrt(norm2));
    e.largest_value = std::max(e.largest_value, std::sqrt(value2));
  }
  const double greatest = *std::max_element(e.logits.begin(), e.logits.end());
  double sum = 0;
  for (const double l : e.logits) sum += e.weights.emplace_back(std::exp(l - greatest));
  for (double& w : e.weights) w /= sum;
  for (std::size_t t = 0; t <= token; ++t) {
    const float* v = text.v.data() + t * text.width() + kv_head * dims;
    for (std::size_t i = 0; i < dims; ++i) e.out[i] += e.weights[t] * v[i];
  }
  return e;
}

/// |x - y|^2 of an output of a text's token and head and an exact one.
inline double squared_error(const Text& text, const std::vector<float>& out, std::size_t head, std::size_t token,
                            const std::vector<double>& exact) {
  double sum = 0;
  const float* x = out.data() + token * text.query_width() + head * exact.size();
  for (std::size_t i = 0; i < exact.size(); ++i) sum += (x[i] - exact[i]) * (x[i] - exact[i]);
  return sum;
}

}  // namespace kvant::cache
