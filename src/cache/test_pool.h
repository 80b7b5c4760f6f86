#pragma once
#include <unistd.h>

#include <filesystem>

#include "cache/test_codes.h"
#include "cache/test_text.h"

/// What the tests of pools share: configurations, and batches of several sequences.
namespace kvant::cache {

/// A file of this test's own, removed at the end.
struct Path {
  std::filesystem::path path =
      std::filesystem::path(testing::TempDir()) /
      fmt::format("kvant_pool_{}_{}", testing::UnitTest::GetInstance()->current_test_info()->name(), ::getpid());
  ~Path() { std::filesystem::remove(path); }
};

inline CacheConfig make_pool_config(const std::string& k, const std::string& v, int sequences, std::size_t capacity,
                                    std::size_t pool_tokens) {
  CacheConfig c = make_config(128, 1, k, v, capacity);
  c.sequences = sequences;
  c.pool_tokens = pool_tokens;
  return c;
}

/// One in which every head of both sides has codes of its own.
inline CacheConfig make_planned_config(int sequences, std::size_t capacity, std::size_t pool_tokens) {
  CacheConfig c = make_pool_config("f16", "f16", sequences, capacity, pool_tokens);
  c.k = codec::parse_cache_spec("plan,plan=given,recent=30");
  c.v = codec::parse_cache_spec("plan,plan=given", codec::PageSide::value);
  c.rope = Text(c, 1, 1).rope;
  constexpr auto kLm = codec::QuantizerKind::lm;
  for (std::uint64_t layer = 0; layer < 2; ++layer) {
    LayerConstants& of = c.constants.emplace_back();
    of.k_anchor = normals(2 * c.head_dim, layer);
    for (std::uint64_t head = 0; head < 2; ++head) {
      of.k_codes.push_back(make_head_code(c.head_dim, {{64, kLm, 4}, {64, kLm, 2}}, 10 * layer + head + 1));
      of.v_codes.push_back(make_head_code(c.head_dim, {{96, kLm, 3}, {32, kLm, 0}}, 10 * layer + head + 5));
    }
  }
  return c;
}

/// New tokens of a sequence, from a text.
struct Part {
  int sequence;
  std::size_t text, first, count;
};

/// Appends and attends in one batch; the outputs of each part, layer after layer.
inline std::vector<std::vector<float>> feed(KvCache& cache, const std::vector<Text>& texts,
                                            const std::vector<Part>& parts) {
  std::vector<Segment> segments;
  std::vector<float> q, k, v, angles;
  std::size_t rows = 0;
  const CacheConfig& c = cache.config();
  const auto add = [](std::vector<float>& to, const std::vector<float>& from, const Part& p, std::size_t width) {
    const auto at = from.begin() + static_cast<std::ptrdiff_t>(p.first * width);
    to.insert(to.end(), at, at + static_cast<std::ptrdiff_t>(p.count * width));
  };
  for (const Part& p : parts) {
    const Text& text = texts[p.text];
    segments.push_back({p.sequence, rows, p.count, p.first});
    rows += p.count;
    add(q, text.q, p, text.query_width());
    add(k, text.k, p, text.width());
    add(v, text.v, p, text.width());
    add(angles, text.angles, p, 2 * c.rope_pairs);
  }
  const std::size_t width = texts[0].query_width();
  std::vector<float> out(rows * width);
  std::vector<std::vector<float>> outputs(parts.size());
  const Batch batch{segments, rows, angles.data()};
  for (int layer = 0; layer < c.layers; ++layer) {
    cache.append(layer, batch, {k.data(), rows, texts[0].width()}, {v.data(), rows, texts[0].width()});
    cache.attend(layer, batch, {q.data(), rows, width}, {out.data(), rows, width});
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const auto at = out.begin() + static_cast<std::ptrdiff_t>(segments[i].first_row * width);
      outputs[i].insert(outputs[i].end(), at, at + static_cast<std::ptrdiff_t>(parts[i].count * width));
    }
  }
  return outputs;
}

}  // namespace kvant::cache
