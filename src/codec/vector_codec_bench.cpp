#include <benchmark/benchmark.h>

#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "codec/page_layout.h"
#include "codec/shaping.h"
#include "codec/vector_codec.h"

namespace kvant::codec {
namespace {

constexpr std::size_t kDims = 128;

/// A page's worth of random vectors; time is per vector.
struct Data {
  std::vector<float> x = std::vector<float>(kPageTokens * kDims);
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(kPageTokens * kDims);

  Data() {
    Random random(1);
    for (float& value : x) value = static_cast<float>(random.normal());
  }
  std::span<const float> vector(std::size_t t) const { return std::span(x).subspan(t * kDims, kDims); }
  std::span<std::uint8_t> codes_of(std::size_t t) { return std::span(codes).subspan(t * kDims, kDims); }
};

template <class Function>
void for_each_vector(benchmark::State& state, Function function) {
  for (auto _ : state) {
    for (std::size_t t = 0; t < kPageTokens; ++t) function(t);
    benchmark::ClobberMemory();
  }
  state.counters["ns/vector"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * static_cast<double>(kPageTokens) * 1e-9,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void encode(benchmark::State& state) {
  const Quantizer q = make_quantizer(QuantizerKind::lm, kDims, static_cast<int>(state.range(0)));
  Data d;
  std::uint16_t scale = 0;
  for_each_vector(state, [&](std::size_t t) { encode_vector(q, ScaleFormat::f16, d.vector(t), d.codes_of(t), scale); });
}
BENCHMARK(encode)->DenseRange(2, 4);

void encode_shaped(benchmark::State& state) {
  const Quantizer q = make_quantizer(QuantizerKind::lm, kDims, static_cast<int>(state.range(0)));
  Data d;
  std::vector<double> metric(kDims * kDims);
  for (std::size_t k = 0; k < kPageTokens; ++k) {
    for (std::size_t i = 0; i < kDims * kDims; ++i) {
      metric[i] += double{d.vector(k)[i / kDims]} * double{d.vector(k)[i % kDims]} / static_cast<double>(k + 1);
    }
  }
  const Shaping shaping = make_shaping(metric, kDims);
  std::uint16_t scale = 0;
  for_each_vector(state, [&](std::size_t t) {
    encode_vector_shaped(q, shaping, ScaleFormat::f16, d.vector(t), d.codes_of(t), scale);
  });
}
BENCHMARK(encode_shaped)->DenseRange(2, 4);

void set_codes(benchmark::State& state, PageSide side) {
  const PageLayout layout(side, kDims, static_cast<int>(state.range(0)), 1, ScaleFormat::f16);
  Data d;
  std::vector<std::byte> page(layout.bytes());
  for_each_vector(state, [&](std::size_t t) { layout.set_codes(page, t, d.codes_of(t)); });
}
BENCHMARK_CAPTURE(set_codes, key, PageSide::key)->DenseRange(2, 4);
BENCHMARK_CAPTURE(set_codes, value, PageSide::value)->DenseRange(2, 4);

}  // namespace
}  // namespace kvant::codec
