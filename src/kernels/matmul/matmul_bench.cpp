#include <benchmark/benchmark.h>

#include <string>

#include "kernels/matmul/matmul.h"
#include "kernels/matmul/weights_for_test.h"

// Shapes of Qwen2.5-1.5B. Bytes per second are those of the weights.
namespace kvant::kernels {
namespace {

constexpr std::size_t kCols = 1536, kRows = 8960;
constexpr std::size_t kCacheRows = 64;            // a matrix of so many rows stays in the L2 cache
constexpr std::size_t kMemoryBytes = 256u << 20;  // far more than the caches hold

void count(benchmark::State& state, double weight_bytes, double products) {
  const auto runs = static_cast<double>(state.iterations());
  state.counters["weights"] =
      benchmark::Counter(runs * weight_bytes, benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
  state.counters["flop"] =
      benchmark::Counter(2 * runs * products, benchmark::Counter::kIsRate, benchmark::Counter::kIs1000);
}

/// A decode kernel alone, one thread, weights in the cache: what its arithmetic allows.
void gemv(benchmark::State& state, const WeightKernel<Gemv>& kernel) {
  const auto n = static_cast<std::size_t>(state.range(0));
  AlignedBuffer<std::byte> w(kCacheRows * gguf::row_bytes(kernel.type, kCols));
  fill_weights(kernel.type, kCacheRows * kCols, 1, w.data());
  const std::vector<float> x = random_values(n * kCols, 2);
  AlignedBuffer<ActivationBlock> blocks(n * activation_blocks(kCols));
  const auto quantize = pick(quantize_activations_kernels(), kernel.isa).function;
  for (std::size_t r = 0; r < n; ++r) quantize(&x[r * kCols], kCols, blocks.data() + r * activation_blocks(kCols), 1);
  std::vector<float> y(n * kCacheRows);
  for (auto _ : state) {
    kernel.function({w.data(), kCacheRows, kCols, {x.data(), n, kCols}, blocks.data(), y.data(), kCacheRows});
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(w.size()), static_cast<double>(n * kCacheRows * kCols));
}

/// A prefill kernel alone, one thread: a panel of rows by a batch.
void gemm(benchmark::State& state, const WeightKernel<Gemm>& kernel) {
  const auto n = static_cast<std::size_t>(state.range(0));
  constexpr std::size_t kRowsAtOnce = GemmArgs::kMaxRows;
  AlignedBuffer<std::byte> w(kRowsAtOnce * gguf::row_bytes(kernel.type, kCols));
  fill_weights(kernel.type, kRowsAtOnce * kCols, 1, w.data());
  const std::vector<float> x = random_values(n * kCols, 2);
  AlignedBuffer<ActivationBlock> blocks(n * activation_blocks(kCols));
  const auto quantize = pick(quantize_activations_kernels(), kernel.isa).function;
  for (std::size_t r = 0; r < n; ++r) quantize(&x[r * kCols], kCols, blocks.data() + r, n);
  std::vector<float> y(n * kRowsAtOnce);
  AlignedBuffer<std::byte> scratch(GemmArgs::scratch_bytes(n));
  for (auto _ : state) {
    kernel.function({w.data(), kRowsAtOnce, kCols, blocks.data(), n, y.data(), kRowsAtOnce, scratch.data()});
    benchmark::DoNotOptimize(y.data());
    benchmark::ClobberMemory();
  }
  count(state, static_cast<double>(w.size()), static_cast<double>(n * kRowsAtOnce * kCols));
}

void decode(benchmark::State& state, const WeightKernel<DecodeValues>& kernel) {
  AlignedBuffer<std::byte> w(gguf::row_bytes(kernel.type, kCols));
  fill_weights(kernel.type, kCols, 1, w.data());
  std::vector<float> out(kCols);
  for (auto _ : state) {
    kernel.function(w.data(), kCols, out.data());
    benchmark::DoNotOptimize(out.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kCols));
}

/// The whole product on all processors. Up to 16 rows the weights come from memory: a new copy each time.
void matmul(benchmark::State& state, gguf::TensorType type, Precision precision) {
  const auto n = static_cast<std::size_t>(state.range(0));
  const std::size_t bytes = kRows * gguf::row_bytes(type, kCols);
  const std::size_t copies = n <= Matmul::kDecodeRows ? kMemoryBytes / bytes + 1 : 1;
  AlignedBuffer<std::byte> w(copies * bytes);
  fill_weights(type, kRows * kCols, 1, w.data());
  for (std::size_t i = 1; i < copies; ++i) std::memcpy(w.data() + i * bytes, w.data(), bytes);
  const std::vector<float> x = random_values(n * kCols, 2);
  std::vector<float> y(n * kRows);
  ThreadPool pool;
  Matmul product(active_isa(), precision);
  std::size_t copy = 0;
  for (auto _ : state) {
    const Matmul::Product p{{type, w.data() + copy * bytes, kRows, kCols}, {y.data(), n, kRows}};
    product(pool, {x.data(), n, kCols}, {&p, 1});
    copy = (copy + 1) % copies;
  }
  count(state, static_cast<double>(bytes), static_cast<double>(n * kRows * kCols));
}

const bool kRegistered = [] {
  for (const auto& kernel : gemv_kernels()) {
    if (!includes(active_isa(), kernel.isa)) continue;
    benchmark::RegisterBenchmark(std::string(kernel.name).c_str(), gemv, kernel)->Arg(1)->Arg(4)->Arg(16);
  }
  for (const auto& kernel : gemm_kernels()) {
    if (!includes(active_isa(), kernel.isa)) continue;
    benchmark::RegisterBenchmark(std::string(kernel.name).c_str(), gemm, kernel)->Arg(32)->Arg(512);
  }
  for (const auto& kernel : decode_kernels()) {
    if (includes(active_isa(), kernel.isa))
      benchmark::RegisterBenchmark(std::string(kernel.name).c_str(), decode, kernel);
  }
  for (gguf::TensorType type : weight_types()) {
    const std::string name(gguf::info(type).name);
    benchmark::RegisterBenchmark(("matmul/fast/" + name).c_str(), matmul, type, Precision::fast)
        ->RangeMultiplier(2)
        ->Range(1, 16)
        ->Arg(512)
        ->UseRealTime();
    benchmark::RegisterBenchmark(("matmul/reference/" + name).c_str(), matmul, type, Precision::reference)
        ->Arg(1)
        ->Arg(512)
        ->UseRealTime();
  }
  return true;
}();

}  // namespace
}  // namespace kvant::kernels
