#include <benchmark/benchmark.h>

#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "kernels/anchor/anchor.h"

namespace kvant::kernels {
namespace {

/// The query heads of a KV head of Qwen2.5-1.5B over a context of 8192.
constexpr std::size_t kRows = 6, kPages = 128;

/// An anchor of the pairs from `first` on.
void run(benchmark::State& state, AnchorFunction kernel, std::size_t first) {
  RopeConfig config;
  config.dims = 128;
  config.base = 1e6;
  const AnchorAngles angles(rope_frequencies(config), kPages * 64);
  std::vector<float> a(128), q(128), re(kRows * 64), im(kRows * 64), logits(kRows * 64);
  Random random(1);
  for (std::size_t j = first; j < 64; ++j) a[j] = a[j + 64] = static_cast<float>(random.normal());
  const AnchorPairs pairs = make_anchor_pairs(angles, a);
  for (std::size_t r = 0; r < kRows; ++r) {
    for (float& x : q) x = static_cast<float>(random.normal());
    anchor_products(angles, pairs, q.data(), re.data() + r * 64, im.data() + r * 64);
  }
  for (auto _ : state) {
    for (std::size_t page = 0; page < kPages; ++page) {
      kernel({angles, pairs, re.data(), im.data(), kRows, page, logits.data()});
    }
    benchmark::ClobberMemory();
  }
  state.counters["ns/page"] = benchmark::Counter(static_cast<double>(state.iterations() * kPages) * 1e-9,
                                                 benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["fast"] = static_cast<double>(pairs.fast.size());
}

const bool kRegistered = [] {
  for (const auto& tier : anchor_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (const std::size_t first : {0U, 12U, 18U, 32U}) {
      const AnchorFunction kernel = tier.function;
      benchmark::RegisterBenchmark(fmt::format("anchor/from {}/{}", first, tier.name).c_str(),
                                   [=](benchmark::State& s) { run(s, kernel, first); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace kvant::kernels
