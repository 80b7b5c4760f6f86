#include <benchmark/benchmark.h>

#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "kernels/encode/encode.h"
#include "kernels/fwht/fwht.h"

namespace kvant::kernels {
namespace {

constexpr std::size_t kDims = 128;

std::vector<float> normals() {
  Random random(1);
  std::vector<float> x(kDims);
  for (float& v : x) v = static_cast<float>(random.normal());
  return x;
}

const bool kRegistered = [] {
  for (const auto& tier : encode_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (const Encoders::Entry& e : tier.function->types) {
      benchmark::RegisterBenchmark(fmt::format("encode/{}/{}", gguf::info(e.type).name, tier.name).c_str(),
                                   [&e](benchmark::State& state) {
                                     const auto x = normals();
                                     std::vector<std::byte> out(gguf::row_bytes(e.type, kDims));
                                     for (auto _ : state)
                                       benchmark::DoNotOptimize(e.encode(x.data(), kDims, out.data()));
                                   });
    }
  }
  for (const auto& tier : fwht_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    benchmark::RegisterBenchmark(fmt::format("rotate_head/{}", tier.name).c_str(),
                                 [f = tier.function](benchmark::State& state) {
                                   auto x = normals();
                                   for (auto _ : state) {
                                     rotate_head(f, x.data(), kDims);
                                     benchmark::ClobberMemory();
                                   }
                                 });
  }
  return true;
}();

}  // namespace
}  // namespace kvant::kernels
