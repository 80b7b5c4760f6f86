#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "cache/side.h"
#include "cache/test_text.h"
#include "codec/vector_codec.h"

namespace kvant::cache {
namespace {

using testing::HasSubstr;

bool all_finite(const std::vector<float>& x) {
  return std::all_of(x.begin(), x.end(), [](float v) { return std::isfinite(v); });
}

TEST(KvCacheValues, WhatCodesCannotHoldIsRefused) {
  ThreadPool pool(2);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr std::size_t kTokens = 70;
  Text text(make_config(64, 1, "lm4", "lm4,recent=3", kTokens), kTokens, 3);
  KvCache cache(text.config, pool, supported_isas().back());
  std::vector<float> out(text.q.size());
  const std::size_t at = 20 * text.width() + 64 + 17;  // position 20, KV head 1
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity, 1e20F, -1e20F, std::numeric_limits<float>::max()}) {
    for (const bool keys : {true, false}) {
      float& value = (keys ? text.k : text.v)[at];
      const float good = std::exchange(value, bad);
      EXPECT_THAT(error_of(ErrorCode::format, [&] { text.feed(cache, 0, 0, kTokens, out); }),
                  HasSubstr(fmt::format("{} of layer 0, KV head 1, position 20: NaN or more than lm4{} can hold",
                                        keys ? "keys" : "values", keys ? "" : ",recent=3")))
          << bad;
      EXPECT_EQ(cache.length(0), 0u);
      value = good;
    }
  }
  // What was refused is forgotten, though parts of it had been stored.
  cache.truncate(0, 0);
  EXPECT_EQ(text.run(cache, kTokens), text.run(text.config, pool, supported_isas().back(), kTokens));
  // The window holds what f16 can.
  text.v[at] = 1e6F;
  EXPECT_THAT(error_of(ErrorCode::format, [&] { text.run(text.config, pool, Isa::scalar, 22); }),
              HasSubstr("values of layer 0, KV head 1, position 20"));
}

/// Vectors of any size from the least to the largest that a scale of f16 can hold have the relative error of others.
TEST(KvCacheValues, CodesKeepTheirPrecisionAtAnySize) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 100;
  for (const std::size_t head_dim : {64U, 80U, 128U}) {
    const Text text(make_flat_config(head_dim, 2, 1, "f32", "lm4", kTokens), kTokens, 5);
    const std::vector<float> usual = text.run(text.config, pool, Isa::scalar, kTokens);
    for (const float size : {1e-2F, 1e2F, 1e4F, 1e6F}) {
      Text scaled = text;
      for (float& v : scaled.v) v *= size;
      for (const Isa isa : supported_isas()) {
        const std::vector<float> out = scaled.run(text.config, pool, isa, kTokens);
        double error = 0, expected = 0;
        for (std::size_t head = 0; head < 2; ++head) {
          for (std::size_t token = 50; token < kTokens; ++token) {
            const Exact exact = attend_exactly(text, head, token);
            expected += squared_error(text, usual, head, token, exact.out);
            std::vector<double> large = exact.out;
            for (double& v : large) v *= size;
            error += squared_error(text, out, head, token, large) / double{size} / double{size};
          }
        }
        EXPECT_NEAR(error / expected, 1, 0.05) << name(isa) << " " << head_dim << " " << size;  // of rounded scales
      }
    }
    // Keys of that size, with queries as small: weights of the same kind.
    Text keys = text;
    for (float& k : keys.k) k *= 1e6F;
    for (float& q : keys.q) q *= 1e-6F;
    const CacheConfig coded = make_flat_config(head_dim, 2, 1, "lm4", "f32", kTokens);
    for (const Isa isa : supported_isas()) {
      const std::vector<float> out = keys.run(coded, pool, isa, kTokens), small = text.run(coded, pool, isa, kTokens);
      double error = 0, expected = 0;
      for (std::size_t token = 50; token < kTokens; ++token) {
        const Exact exact = attend_exactly(text, 1, token);
        error += squared_error(text, out, 1, token, exact.out);
        expected += squared_error(text, small, 1, token, exact.out);
      }
      EXPECT_NEAR(error / expected, 1, 0.1) << name(isa) << " " << head_dim;
    }
  }
}

/// Zeros are exact; what is too small for a scale is stored as zero; nothing ever becomes infinite.
TEST(KvCacheValues, ZerosAndTheSmallestAndLargestNumbers) {
  ThreadPool pool(2);
  constexpr std::size_t kTokens = 66;
  for (const char* type : {"lm1", "lm4", "uni2", "uni8", "lm3,norm=log8", "uni5,group=32"}) {
    for (const float value : {0.0F, -0.0F, 0x1p-149F, -0x1p-140F, 0x1p-126F, 0x1p-70F, 1e-20F}) {
      for (const Isa isa : supported_isas()) {
        SCOPED_TRACE(fmt::format("{} {} {}", type, value, name(isa)));
        Text text(make_config(64, 2, type, type, kTokens), kTokens, 7);
        std::fill(text.v.begin(), text.v.end(), value);
        std::fill(text.k.begin(), text.k.end(), value);
        for (const float x : text.run(text.config, pool, isa, 30)) ASSERT_EQ(x, 0);
        // Zeros among others, and zero queries.
        const Text other(text.config, kTokens, 8);
        for (std::size_t i = 0; i < text.v.size(); ++i) {
          if (i / text.width() % 3 != 0) text.v[i] = other.v[i], text.k[i] = other.k[i];
        }
        std::fill_n(text.q.begin(), 2 * text.query_width(), 0.0F);
        ASSERT_TRUE(all_finite(text.run(text.config, pool, isa, 30)));
      }
    }
    Text text(make_config(64, 2, type, type, kTokens), kTokens, 7);
    for (float& v : text.v) v *= 1e12F;
    for (float& k : text.k) k *= 1e12F;
    for (const Isa isa : supported_isas()) ASSERT_TRUE(all_finite(text.run(text.config, pool, isa, 30))) << type;
  }
}

/// What a page of codes takes, by hand: bits * dims * 64 / 8 for codes and 64 scales for each group.
TEST(KvCacheValues, CodesTakeTheBitsThatTheirNameSays) {
  ThreadPool pool(1);
  struct Expected {
    const char* type;
    std::size_t head_dim;
    double bits;
  };
  for (const auto& [type, head_dim, bits] : {Expected{"lm4", 128, 4.125},
                                             {"lm1", 128, 1.125},
                                             {"uni8", 128, 8.125},
                                             {"lm4", 64, 4.25},
                                             {"lm4,group=32", 128, 4.5},
                                             {"lm3,norm=log8", 128, 3.0625},
                                             {"uni5,group=64,norm=log8", 128, 5.125},
                                             {"lm2", 80, (96 * 2 + 2 * 16) / 80.0},        // 64 and 16, padded to 32
                                             {"lm2", 112, (128 * 2 + 3 * 16) / 112.0}}) {  // 64, 32 and 16
    CacheConfig config = make_config(head_dim, 2, type, type, 4096);
    config.sequences = 2;
    const CacheUsage usage = KvCache(config, pool, Isa::scalar).usage();
    const double values = 2.0 * 2 * 2 * 4096 * static_cast<double>(head_dim), page = 8 * 4096 / values;
    for (const double bpv : {usage.k_bpv, usage.v_bpv}) {
      EXPECT_GE(bpv, bits * (1 - 1e-12)) << type << " " << head_dim;
      EXPECT_LE(bpv, bits + page) << type << " " << head_dim;
    }
    EXPECT_DOUBLE_EQ(usage.k_bpv, 8 * static_cast<double>(usage.k_bytes) / values);
  }
  // 65 tokens take two pages.
  const CacheUsage padded = KvCache(make_config(128, 1, "lm4", "lm4", 65), pool, Isa::scalar).usage();
  EXPECT_LE(padded.k_bpv, 4.125 * 128 / 65 + 8 * 4096 / (2.0 * 2 * 65 * 128));
  EXPECT_GE(padded.k_bpv, 4.125 * 128 / 65 - 1e-12);
}

TEST(KvCacheValues, WindowsAndConstantsAreCounted) {
  ThreadPool pool(1);
  CacheConfig config = make_config(128, 2, "lm4", "lm4", 4096);
  const CacheUsage plain = KvCache(config, pool, Isa::scalar).usage();
  config.k.sinks = 4;
  config.k.recent = 60;
  const CacheUsage window = KvCache(config, pool, Isa::scalar).usage();
  constexpr std::size_t kTile = 4096;  // a page of the kernel's behind the last vector, for tiles that reach over it
  EXPECT_EQ(window.k_bytes - plain.k_bytes, 2u * 2 * 64 * 128 * 2 + kTile);
  EXPECT_EQ(window.v_bytes, plain.v_bytes);
  config.k.recent = 1 << 20;  // no more than the capacity
  EXPECT_EQ(KvCache(config, pool, Isa::scalar).usage().k_bytes - plain.k_bytes, 2u * 2 * (4 + 4096) * 128 * 2 + kTile);

  config = make_config(128, 2, "lm4,scale=weights", "lm4", 4096);
  kernels::RopeConfig rope;
  rope.dims = 128;
  config.rope = kernels::rope_frequencies(rope);
  config.constants.resize(2);
  for (LayerConstants& c : config.constants) {
    c.k_anchor = normals(256, 1);
    c.v_anchor = normals(256, 2);
    c.k_energy.assign(128, 1);
    c.q_energy.assign(128, 1);
  }
  const CacheUsage constants = KvCache(config, pool, Isa::scalar).usage();
  EXPECT_EQ(constants.bytes(), plain.bytes());
  // Anchors of both sides, scales and their inverses, for 4 heads; and of 64 pages the phases of 64 pairs.
  const std::size_t least = 4 * 4 * 128 * sizeof(float) + std::size_t{64} * 64 * 2 * sizeof(float);
  EXPECT_GE(constants.constant_bytes - plain.constant_bytes, least);
  EXPECT_LE(constants.constant_bytes - plain.constant_bytes, 3 * least);
  EXPECT_GT(plain.constant_bytes, 0u);
}

/// What is asked for before is what is allocated after, up to whole pages of the kernel.
TEST(KvCacheValues, PlannedBytesAreAllocated) {
  for (const char* type : {"f16", "rot-q5_1", "lm3,group=32", "uni6,norm=log8,sinks=3,recent=77", "q8_0,recent=500"}) {
    for (const std::size_t head_dim : {8U, 80U, 128U}) {
      CacheConfig config = make_config(head_dim, 2, type, type, 300);
      config.sequences = 3;
      for (const codec::PageSide side : {codec::PageSide::key, codec::PageSide::value}) {
        Side s(config, side, Isa::scalar);
        const double planned = s.planned_bytes();
        s.allocate();
        EXPECT_GE(static_cast<double>(s.bytes()), planned) << type;
        EXPECT_LE(static_cast<double>(s.bytes()), planned + 2 * 4096) << type;
      }
    }
  }
}

}  // namespace
}  // namespace kvant::cache
