#include <benchmark/benchmark.h>

#include <vector>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/random.h"
#include "gguf/blocks.h"
#include "kernels/attention/attention.h"

namespace kvant::kernels {
namespace {

constexpr std::size_t kDims = 128;
constexpr std::size_t kRows = 6;        // the query heads of a KV head of Qwen2.5-1.5B
constexpr std::size_t kChunkPages = 8;  // that share a softmax

struct Data {
  std::size_t pages, page_bytes;
  AlignedBuffer<std::byte> bytes;
  std::vector<float> q, logits, out;
  std::vector<std::size_t> visible;
  std::vector<SoftmaxState> states;

  Data(gguf::TensorType type, std::size_t tokens)
      : pages(tokens / kPageTokens),
        page_bytes(kPageTokens * gguf::row_bytes(type, kDims)),
        bytes(pages * page_bytes),
        q(kRows * kDims),
        logits(kRows * kChunkPages * kPageTokens),
        out(kRows * kDims),
        visible(kRows, kChunkPages * kPageTokens),
        states(kRows) {
    Random random(1);
    std::vector<float> page(kPageTokens * kDims);
    for (float& x : page) x = static_cast<float>(random.normal());
    for (std::size_t i = 0; i < pages; ++i) gguf::quantize(type, page, bytes.data() + i * page_bytes);
    for (float& x : q) x = static_cast<float>(random.normal());
  }
  const std::byte* page(std::size_t i) const { return bytes.data() + i * page_bytes; }
};

void set_counters(benchmark::State& state, std::size_t tokens, std::size_t bytes) {
  const auto n = static_cast<double>(state.iterations());
  state.counters["ns/key"] = benchmark::Counter(n * static_cast<double>(tokens) * 1e-9,
                                                benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.SetBytesProcessed(static_cast<std::int64_t>(n * static_cast<double>(bytes)));
}

void bench_score(benchmark::State& state, const TypeKernels& kernels) {
  const auto tokens = static_cast<std::size_t>(state.range(0));
  Data d(kernels.type, tokens);
  for (auto _ : state) {
    for (std::size_t i = 0; i < d.pages; ++i) {
      kernels.score({d.q.data(), kRows, kDims, d.page(i), kPageTokens, d.logits.data()});
    }
    benchmark::ClobberMemory();
  }
  set_counters(state, tokens, d.pages * d.page_bytes);
}

void bench_mix(benchmark::State& state, const TypeKernels& kernels) {
  const auto tokens = static_cast<std::size_t>(state.range(0));
  Data d(kernels.type, tokens);
  for (auto _ : state) {
    for (std::size_t i = 0; i < d.pages; ++i) {
      kernels.mix({d.logits.data(), kRows, kDims, d.page(i), kPageTokens, d.out.data()});
    }
    benchmark::ClobberMemory();
  }
  set_counters(state, tokens, d.pages * d.page_bytes);
}

/// Score, softmax and mix, K and V of one type: what decoding does for a KV head.
void bench_attend(benchmark::State& state, const AttentionKernels& all, const TypeKernels& kernels) {
  const auto tokens = static_cast<std::size_t>(state.range(0));
  Data k(kernels.type, tokens);
  Data v(kernels.type, tokens);
  for (auto _ : state) {
    for (std::size_t first = 0; first < k.pages; first += kChunkPages) {
      const auto logits = [&](std::size_t page) { return k.logits.data() + page * kRows * kPageTokens; };
      for (std::size_t i = 0; i < kChunkPages; ++i) {
        Data& next = i + 1 < kChunkPages ? k : v;
        kernels.score({k.q.data(),
                       kRows,
                       kDims,
                       k.page(first + i),
                       kPageTokens,
                       logits(i),
                       {next.page(first + (i + 1) % kChunkPages), k.page_bytes}});
      }
      all.softmax({kRows, kChunkPages, 0.09F, k.visible.data(), k.logits.data(), k.states.data()});
      for (std::size_t i = 0; i < kChunkPages; ++i) {
        Data& next = i + 1 < kChunkPages ? v : k;
        const bool last = first + i + 1 == k.pages;
        kernels.mix({logits(i),
                     kRows,
                     kDims,
                     v.page(first + i),
                     kPageTokens,
                     v.out.data(),
                     {next.page(first + i + 1), last ? 0 : k.page_bytes}});
      }
    }
    benchmark::ClobberMemory();
  }
  set_counters(state, tokens, 2 * k.pages * k.page_bytes);
}

const bool kRegistered = [] {
  for (const auto& tier : attention_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (const TypeKernels& kernels : tier.function->types) {
      const auto name = [&](const char* op) {
        return fmt::format("{}/{}/{}", op, gguf::info(kernels.type).name, tier.name);
      };
      const auto add = [&](const std::string& title, auto function) {
        benchmark::RegisterBenchmark(title.c_str(), function)->RangeMultiplier(8)->Range(512, 32768);
      };
      add(name("score"), [&kernels](benchmark::State& s) { bench_score(s, kernels); });
      add(name("mix"), [&kernels](benchmark::State& s) { bench_mix(s, kernels); });
      add(name("attend"), [&kernels, &tier](benchmark::State& s) { bench_attend(s, *tier.function, kernels); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace kvant::kernels
