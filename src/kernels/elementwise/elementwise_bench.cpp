#include <benchmark/benchmark.h>

#include <vector>

#include "base/error.h"
#include "kernels/elementwise/elementwise.h"

namespace kvant::kernels {
namespace {

/// A row of Qwen2.5-1.5B: 1536 channels, 8960 of its feed-forward network; rates count every array once.
template <class Function>
void run(benchmark::State& state, std::size_t arrays, Function function) {
  const auto n = static_cast<std::size_t>(state.range(0));
  std::vector<float> x(n, 0.5F), y(n, 0.25F), out(n);
  for (auto _ : state) {
    function(x.data(), y.data(), n, out.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(arrays * n * sizeof(float)) * state.iterations());
}

const bool kRegistered = [] {
  for (const auto& tier : elementwise_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    const Elementwise& e = *tier.function;
    const auto add = [&](const char* op, std::size_t arrays, auto function) {
      benchmark::RegisterBenchmark(fmt::format("{}/{}", op, tier.name).c_str(),
                                   [=](benchmark::State& s) { run(s, arrays, function); })
          ->Arg(1536)
          ->Arg(8960);
    };
    add("rms_norm", 3, [&e](float* x, float* y, std::size_t n, float* out) { e.rms_norm(x, y, 1e-6F, n, out); });
    add("add", 2, [&e](float*, float* y, std::size_t n, float* out) { e.add(out, y, n); });
    add("silu_mul", 3, [&e](float* x, float* y, std::size_t n, float* out) { e.silu_mul(x, y, n, out); });
  }
  return true;
}();

}  // namespace
}  // namespace kvant::kernels
