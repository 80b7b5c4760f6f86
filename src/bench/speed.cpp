#include "bench/speed.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <numeric>
#include <optional>

#include "base/aligned_buffer.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/random.h"

namespace kvant::bench {
namespace {

using engine::Token;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// Appends standard normal keys and values to sequence 0 in every layer until it holds `depth` tokens.
void fill(cache::KvCache& cache, const model::ModelConfig& config, std::size_t depth, Random& random) {
  constexpr std::size_t kRows = model::Transformer::kMaxRows;
  const std::size_t cols = config.kv_size();
  const kernels::RopeFrequencies frequencies = kernels::rope_frequencies(config.rope);
  AlignedBuffer<float> k(kRows * cols), v(kRows * cols), angles(kRows * frequencies.theta.size() * 2);
  for (float& x : k) x = static_cast<float>(random.normal());
  for (float& x : v) x = static_cast<float>(random.normal());
  std::vector<std::size_t> positions(kRows);
  for (std::size_t at = cache.length(0); at < depth; at += kRows) {
    const std::size_t rows = std::min(kRows, depth - at);
    std::iota(positions.begin(), positions.end(), at);
    kernels::rope_angles(frequencies, std::span(positions).first(rows), angles.data());
    const std::array segments{cache::Segment{0, 0, rows, at}};
    const cache::Batch batch{segments, rows, angles.data()};
    for (int layer = 0; layer < config.layers; ++layer) {
      cache.append(layer, batch, {k.data(), rows, cols}, {v.data(), rows, cols});
    }
  }
}

std::vector<Token> random_tokens(std::size_t count, std::size_t vocabulary, Random& random) {
  std::vector<Token> tokens(count);
  for (Token& token : tokens) token = static_cast<Token>(random.below(vocabulary));
  return tokens;
}

double values_per_token(const model::ModelConfig& config) {
  return static_cast<double>(config.layers) * static_cast<double>(config.kv_size());
}

/// Bytes of keys and values of so many tokens.
double cache_bytes(const model::ModelConfig& config, const cache::CacheUsage& usage, double tokens) {
  return (usage.k_bpv + usage.v_bpv) / 8 * values_per_token(config) * tokens;
}

/// Seconds of each prefill and of each decoded token: medians over all leave out what the machine did beside them.
struct Times {
  std::vector<double> prefill, decode, weights, attention;
};

std::size_t deepest(const SpeedOptions& options) {
  return *std::max_element(options.depths.begin(), options.depths.end());
}

std::size_t timed_tokens(const SpeedOptions& options) {
  return std::max({options.prompt, options.tokens, std::size_t{1}});
}

/// A cache of random tokens, and what is timed over it.
class Probe {
 public:
  Probe(engine::Engine& engine, const CacheTypes& types, const SpeedOptions& options)
      : engine_(engine),
        cache_(engine.make_cache(types.k, types.v, deepest(options) + timed_tokens(options))),
        create_ms_(1e3 * creation_.seconds()),
        prompt_(random_tokens(options.prompt, engine.config().vocabulary, random_)),
        tokens_(random_tokens(options.tokens, engine.config().vocabulary, random_)) {
    forward(random_tokens(1, engine.config().vocabulary, random_));  // pages of the weights and workspaces exist
    cache_.truncate(0, 0);
  }

  const cache::KvCache& cache() const { return cache_; }
  double create_ms() const { return create_ms_; }

  /// Fills what the cache lacks of the depth first.
  void time(std::size_t depth, Times& times) {
    model::Transformer& transformer = engine_.transformer();
    fill(cache_, engine_.config(), depth, random_);
    if (!prompt_.empty()) {
      cache_.truncate(0, depth);
      const Stopwatch watch;
      forward(prompt_);
      times.prefill.push_back(watch.seconds());
    }
    cache_.truncate(0, depth);
    for (const Token& token : tokens_) {
      transformer.reset_profile();
      const Stopwatch watch;
      forward({&token, 1});
      times.decode.push_back(watch.seconds());
      times.weights.push_back(transformer.profile().weights);
      times.attention.push_back(transformer.profile().attention);
    }
    cache_.truncate(0, depth);
  }

 private:
  void forward(std::span<const Token> input) {
    engine_.transformer().forward(cache_, std::array{model::Input{0, input, 1}});
  }

  engine::Engine& engine_;
  Random random_{1};
  Stopwatch creation_;
  cache::KvCache cache_;
  double create_ms_;
  std::vector<Token> prompt_, tokens_;
};

SpeedResult summary(const engine::Engine& engine, const SpeedOptions& options, std::size_t depth, const Times& times,
                    SpeedResult result) {
  const model::ModelConfig& config = engine.config();
  const auto with_blocks = [&](std::size_t tokens) {
    return static_cast<double>(round_up(tokens + timed_tokens(options), cache::KvCache::kBlockTokens));
  };
  result.cache_bytes = static_cast<double>(result.usage.bytes()) * with_blocks(depth) / with_blocks(deepest(options));
  if (!times.prefill.empty()) {
    result.prefill_tps = static_cast<double>(options.prompt) / median(times.prefill);
    result.prefill_gflops = 2e-9 * matrix_values(engine.weights()) * result.prefill_tps;
  }
  if (!times.decode.empty()) {
    result.length = static_cast<double>(depth) + (static_cast<double>(options.tokens) + 1) / 2;
    const double bytes =
        static_cast<double>(engine.weights().bytes_per_token()) + cache_bytes(config, result.usage, result.length);
    result.decode_ms = 1e3 * median(times.decode);
    result.weights_ms = 1e3 * median(times.weights);
    result.attention_ms = 1e3 * median(times.attention);
    result.decode_gb_s = 1e-9 * bytes / median(times.decode);
  }
  return result;
}

bool integer_products(const codec::CacheSpec& spec) {
  return spec.coded() || spec.coding == codec::CacheSpec::Coding::plan;
}

}  // namespace

double matrix_values(const model::Weights& weights) {
  double values = 0;
  const auto add = [&](const kernels::WeightView& w) {
    values += static_cast<double>(w.rows) * static_cast<double>(w.cols);
  };
  for (const model::LayerWeights& layer : weights.layers) {
    for (const kernels::WeightView* w :
         {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down}) {
      add(*w);
    }
  }
  return values;
}

std::size_t resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  std::size_t total = 0, resident = 0;
  statm >> total >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

std::vector<SpeedRow> measure_speed(engine::Engine& engine, const SpeedOptions& options) {
  KVANT_ASSERT(!options.caches.empty() && !options.depths.empty() && options.repetitions > 0);
  const std::size_t caches = options.caches.size(), depths = options.depths.size();
  std::vector<Times> times(caches * depths);
  std::vector<SpeedResult> results(caches);
  std::optional<Probe> probe;
  std::size_t done = 0;
  for (std::size_t r = 0; r < options.repetitions; ++r) {
    for (std::size_t c = 0; c < caches; ++c) {
      if (caches > 1) probe.reset();  // the memory of one cache at a time
      if (!probe) probe.emplace(engine, options.caches[c], options);
      for (std::size_t d = 0; d < depths; ++d) {
        probe->time(options.depths[d], times[d * caches + c]);
        if (options.progress) options.progress(++done, options.repetitions * caches * depths, {});
      }
      results[c].usage = probe->cache().usage();
      results[c].create_ms = probe->create_ms();
      results[c].rss_bytes = resident_bytes();
    }
  }
  std::vector<SpeedRow> rows;
  for (std::size_t d = 0; d < depths; ++d) {
    for (std::size_t c = 0; c < caches; ++c) {
      const std::size_t depth = options.depths[d];
      rows.push_back({c, depth, summary(engine, options, depth, times[d * caches + c], results[c])});
    }
  }
  return rows;
}

AttentionWork attention_work(const model::ModelConfig& config, const CacheTypes& cache, const SpeedResult& speed) {
  AttentionWork work;
  work.bytes = cache_bytes(config, speed.usage, speed.length);
  const double heads = static_cast<double>(config.heads) / static_cast<double>(config.kv_heads);
  for (const codec::CacheSpec* side : {&cache.k, &cache.v}) {
    (integer_products(*side) ? work.int8_operations : work.f32_operations) +=
        2 * heads * values_per_token(config) * speed.length;
  }
  return work;
}

AttentionFloor attention_floor(const AttentionWork& work, const Roofline& peak) {
  AttentionFloor floor;
  const double int8 = peak.int8_gops > 0 ? peak.int8_gops : peak.f32_gflops;
  if (peak.read_gb_s > 0) floor.memory_ms = 1e-6 * work.bytes / peak.read_gb_s;
  if (peak.f32_gflops > 0)
    floor.compute_ms = 1e-6 * (work.f32_operations / peak.f32_gflops + work.int8_operations / int8);
  return floor;
}

}  // namespace kvant::bench
