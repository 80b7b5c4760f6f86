#include <benchmark/benchmark.h>

#include <vector>

#include "base/aligned_buffer.h"
#include "base/error.h"
#include "base/random.h"
#include "kernels/codes/codes.h"

namespace kvant::kernels {
namespace {

constexpr std::size_t kDims = 128;
constexpr std::size_t kRows = 6;  // the query heads of a KV head of Qwen2.5-1.5B

/// Pages of one side. The kernels take the same time for all codes, so these are random.
struct Side {
  CodedPages pages;
  std::size_t count, page_bytes;
  AlignedBuffer<std::byte> bytes;

  Side(codec::PageSide side, const codec::Quantizer& quantizer, std::size_t tokens)
      : pages{codec::PageLayout(side, kDims, quantizer.bits, 1, codec::ScaleFormat::f16), make_code_table(quantizer),
              std::vector<std::uint16_t>(kDims / 32)},
        count(tokens / kPageTokens),
        page_bytes(pages.layout.bytes()),
        bytes(count * page_bytes) {
    Random random(1);
    for (std::size_t i = 0; i < count; ++i) {
      const std::span page(bytes.data() + i * page_bytes, page_bytes);
      for (std::size_t j = 0; j < pages.layout.code_bytes(); ++j) page[j] = static_cast<std::byte>(random.next());
      for (std::size_t t = 0; t < kPageTokens; ++t) {
        pages.layout.set_scale(page, t, 0, codec::encode_scale(codec::ScaleFormat::f16, 0.01F));
      }
    }
  }
  const std::byte* page(std::size_t i) const { return bytes.data() + i * page_bytes; }
};

constexpr std::size_t kChunkPages = 8;  // that share a softmax

/// The rows of a step, and what they gather.
struct Rows {
  std::size_t rows, planes;
  std::vector<std::int8_t> values;
  std::vector<float> units, logits, out;
  std::vector<std::int32_t> sums;
  std::vector<std::size_t> visible;
  std::vector<SoftmaxState> states;

  Rows(const CodedPages& pages, std::size_t rows_of, std::size_t planes_of, int largest)
      : rows(rows_of),
        planes(planes_of),
        values(rows * planes * kDims),
        units(rows * planes),
        logits(rows * kChunkPages * kPageTokens, 1.0F),
        out(rows * kDims),
        sums(rows * planes),
        visible(rows, kChunkPages * kPageTokens),
        states(rows) {
    Random random(2);
    std::vector<float> q(kDims);
    for (std::size_t r = 0; r < rows; ++r) {
      for (float& x : q) x = static_cast<float>(random.normal());
      quantize_query(pages, q.data(), static_cast<int>(planes), largest, &values[r * planes * kDims],
                     &units[r * planes], &sums[r * planes]);
    }
  }
  float* page(std::size_t i) { return logits.data() + i * rows * kPageTokens; }
  QuantizedQueries queries() const { return {values.data(), units.data(), sums.data(), static_cast<int>(planes)}; }
};

void set_counters(benchmark::State& state, std::size_t tokens, std::size_t bytes) {
  const auto n = static_cast<double>(state.iterations());
  state.counters["ns/key"] = benchmark::Counter(n * static_cast<double>(tokens) * 1e-9,
                                                benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.SetBytesProcessed(static_cast<std::int64_t>(n * static_cast<double>(bytes)));
}

/// What runs, on which tier.
struct Subject {
  const Implementation<const CodeKernels*>& tier;
  codec::Quantizer quantizer;
  std::size_t rows, planes;

  int largest_query() const { return tier.function->largest_query(quantizer.bits); }
  std::size_t kind() const { return static_cast<std::size_t>(quantizer.bits - 1); }
};

void bench_score(benchmark::State& state, const Subject& subject) {
  const auto tokens = static_cast<std::size_t>(state.range(0));
  const Side keys(codec::PageSide::key, subject.quantizer, tokens);
  Rows rows(keys.pages, subject.rows, subject.planes, subject.largest_query());
  for (auto _ : state) {
    for (std::size_t i = 0; i < keys.count; ++i) {
      subject.tier.function->score[subject.kind()](
          {keys.pages, rows.queries(), rows.rows, keys.page(i), kPageTokens, rows.logits.data()});
    }
    benchmark::ClobberMemory();
  }
  set_counters(state, tokens, keys.count * keys.page_bytes);
}

void bench_mix(benchmark::State& state, const Subject& subject) {
  const auto tokens = static_cast<std::size_t>(state.range(0));
  const Side values(codec::PageSide::value, subject.quantizer, tokens);
  Rows rows(values.pages, subject.rows, subject.planes, subject.largest_query());
  for (auto _ : state) {
    for (std::size_t i = 0; i < values.count; ++i) {
      subject.tier.function->mix[subject.kind()](
          {values.pages, rows.logits.data(), rows.rows, values.page(i), kPageTokens, rows.out.data()});
    }
    benchmark::ClobberMemory();
  }
  set_counters(state, tokens, values.count * values.page_bytes);
}

/// Score, softmax and mix, K and V of one type: what decoding does for a KV head.
void bench_attend(benchmark::State& state, const Subject& subject) {
  const auto tokens = static_cast<std::size_t>(state.range(0));
  const Side keys(codec::PageSide::key, subject.quantizer, tokens);
  const Side values(codec::PageSide::value, subject.quantizer, tokens);
  Rows r(keys.pages, subject.rows, subject.planes, subject.largest_query());
  const CodeKernels& kernels = *subject.tier.function;
  const AttentionKernels& all = attention(subject.tier.isa);
  for (auto _ : state) {
    for (std::size_t first = 0; first < keys.count; first += kChunkPages) {
      for (std::size_t i = 0; i < kChunkPages; ++i) {
        const Side& next = i + 1 < kChunkPages ? keys : values;
        kernels.score[subject.kind()]({keys.pages,
                                       r.queries(),
                                       r.rows,
                                       keys.page(first + i),
                                       kPageTokens,
                                       r.page(i),
                                       {next.page(first + (i + 1) % kChunkPages), next.page_bytes}});
      }
      all.softmax({r.rows, kChunkPages, 0.09F, r.visible.data(), r.logits.data(), r.states.data()});
      for (std::size_t i = 0; i < kChunkPages; ++i) {
        const Side& next = i + 1 < kChunkPages ? values : keys;
        const bool last = first + i + 1 == keys.count;
        kernels.mix[subject.kind()]({values.pages,
                                     r.page(i),
                                     r.rows,
                                     values.page(first + i),
                                     kPageTokens,
                                     r.out.data(),
                                     {next.page(first + i + 1), last ? 0 : next.page_bytes}});
      }
    }
    benchmark::ClobberMemory();
  }
  set_counters(state, tokens, 2 * keys.count * keys.page_bytes);
}

void add(const char* op, void (*function)(benchmark::State&, const Subject&), const Subject& subject) {
  std::string name = fmt::format("{}/{}{}/{}", op, subject.quantizer.kind == codec::QuantizerKind::lm ? "lm" : "uni",
                                 subject.quantizer.bits, subject.tier.name);
  if (subject.planes == 2) name += "/planes:2";
  if (subject.rows != kRows) name += fmt::format("/rows:{}", subject.rows);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& s) { function(s, subject); })
      ->RangeMultiplier(8)
      ->Range(512, 32768);
}

const bool kRegistered = [] {
  for (const auto& tier : code_implementations()) {
    if (!includes(supported_isas().back(), tier.isa)) continue;
    for (int bits = 1; bits <= 8; ++bits) {
      const auto kind = bits > 6 ? codec::QuantizerKind::uni : codec::QuantizerKind::lm;
      const Subject subject{tier, codec::make_quantizer(kind, kDims, bits), kRows, 1};
      add("score", bench_score, subject);
      add("mix", bench_mix, subject);
      add("attend", bench_attend, subject);
      if (bits != 4) continue;
      add("attend", bench_attend, {tier, subject.quantizer, kRows, 2});
      add("attend", bench_attend, {tier, subject.quantizer, 96, 1});
    }
  }
  return true;
}();

}  // namespace
}  // namespace kvant::kernels
