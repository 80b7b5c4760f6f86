#include <benchmark/benchmark.h>

#include <vector>

#include "base/random.h"
#include "cache/kv_cache.h"
#include "cache/test_codes.h"
#include "kernels/rope/rope.h"

namespace kvant::cache {
namespace {

constexpr std::size_t kDims = 128;
constexpr int kHeads = 12;  // Qwen2.5-1.5B: 6 query heads for each of 2 KV heads
constexpr int kKvHeads = 2;

/// How keys and values are stored: a type, or parts of planned heads.
struct Type {
  std::string name;
  std::vector<codec::CodePart> parts = {};
};

/// Parts of 64 dims, in codes of lm.
Type planned(int first, int second) {
  const auto part = [](int bits) { return codec::CodePart{kDims / 2, codec::QuantizerKind::lm, bits}; };
  return {fmt::format("plan-{}-{}", first, second), {part(first), part(second)}};
}

std::vector<Type> all_types() {
  std::vector<Type> types;
  for (const char* name :
       {"f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "rot-q8_0", "rot-q4_0", "lm3", "lm4", "lm5"}) {
    types.push_back({name});
  }
  types.insert(types.end(), {planned(4, 2), planned(5, 3), planned(4, 3), planned(4, 4), planned(4, 0)});
  types.push_back({"plan-32@4-96@3", {{32, codec::QuantizerKind::lm, 4}, {96, codec::QuantizerKind::lm, 3}}});
  return types;
}

/// One layer of Qwen2.5-1.5B that holds `tokens` tokens.
struct Layer {
  ThreadPool pool;
  std::size_t tokens;
  std::vector<float> rows, angles, out;
  KvCache cache;

  static CacheConfig config(const Type& type, std::size_t tokens) {
    CacheConfig c;
    c.layers = 1;
    c.heads = kHeads;
    c.kv_heads = kKvHeads;
    c.head_dim = kDims;
    c.rope_pairs = kDims / 2;
    c.capacity = tokens;
    c.k = c.v = codec::parse_cache_spec(type.parts.empty() ? type.name : "plan,anchor=none,plan=given");
    if (!type.parts.empty()) {
      LayerConstants& constants = c.constants.emplace_back();
      constants.k_codes.assign(kKvHeads, make_head_code(kDims, type.parts, 1));
      constants.v_codes = constants.k_codes;
    }
    return c;
  }
  Layer(const Type& type, std::size_t n, Isa isa, int threads)
      : pool(threads),
        tokens(n),
        rows(512 * kHeads * kDims),
        angles(512 * kDims, 0.7F),
        out(512 * kHeads * kDims),
        cache(config(type, n), pool, isa) {
    Random random(1);
    for (float& x : rows) x = static_cast<float>(random.normal());
    while (cache.length(0) < tokens) append(std::min<std::size_t>(512, tokens - cache.length(0)));
  }
  void append(std::size_t count) {
    const Segment segment{0, 0, count, cache.length(0)};
    const MatView<const float> x(rows.data(), count, kKvHeads * kDims);
    cache.append(0, {{&segment, 1}, count, angles.data()}, x, x);
  }
  void attend(std::size_t count) {
    const Segment segment{0, 0, count, tokens - count};
    cache.attend(0, {{&segment, 1}, count, angles.data()}, {rows.data(), count, kHeads * kDims},
                 {out.data(), count, kHeads * kDims});
  }
};

void set_counter(benchmark::State& state, const char* name, double things) {
  state.counters[name] = benchmark::Counter(static_cast<double>(state.iterations()) * things * 1e-9,
                                            benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

/// One new token; per stored token and KV head.
void bench_decode(benchmark::State& state, const Type& type, Isa isa, int threads) {
  Layer layer(type, static_cast<std::size_t>(state.range(0)), isa, threads);
  for (auto _ : state) layer.attend(1);
  set_counter(state, "ns/key", static_cast<double>(layer.tokens) * kKvHeads);
  state.SetBytesProcessed(static_cast<std::int64_t>(layer.cache.usage().bytes()) * state.iterations());
}

/// The last 512 of the tokens; arithmetic of the visible products.
void bench_prefill(benchmark::State& state, const Type& type, Isa isa, int threads) {
  Layer layer(type, static_cast<std::size_t>(state.range(0)), isa, threads);
  for (auto _ : state) layer.attend(512);
  const double seen = static_cast<double>(layer.tokens) - 255.5;
  state.counters["FLOP/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * 512 * seen * kHeads * kDims * 4, benchmark::Counter::kIsRate);
}

/// 512 new tokens; per vector.
void bench_append(benchmark::State& state, const Type& type, Isa isa) {
  Layer layer(type, 512, isa, 1);
  for (auto _ : state) {
    layer.cache.truncate(0, 0);
    layer.append(512);
  }
  set_counter(state, "ns/vector", 512 * 2 * kKvHeads);
}

const bool kRegistered = [] {
  for (Isa isa : supported_isas()) {
    if (isa == Isa::scalar) continue;
    for (const Type& type : all_types()) {
      const auto title = [&](const char* what, const char* end) {
        return fmt::format("{}/{}/{}{}", what, type.name, name(isa), end);
      };
      benchmark::RegisterBenchmark(title("append", "").c_str(), bench_append, type, isa);
      for (int threads : {1, 2}) {
        const char* end = threads == 1 ? "/t1" : "/t2";
        auto* decode = benchmark::RegisterBenchmark(title("decode", end).c_str(), bench_decode, type, isa, threads);
        auto* prefill = benchmark::RegisterBenchmark(title("prefill", end).c_str(), bench_prefill, type, isa, threads);
        decode->RangeMultiplier(8)->Range(512, 32768);
        prefill->Arg(512)->Arg(4096);
        if (threads > 1) {
          decode->UseRealTime();
          prefill->UseRealTime();
        }
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace kvant::cache
