#include "bench/speed.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <numeric>
#include <vector>

#include "base/aligned_buffer.h"
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

/// Appends `depth` tokens of standard normal keys and values to sequence 0 in every layer.
void fill(cache::KvCache& cache, const model::ModelConfig& config, std::size_t depth, Random& random) {
  constexpr std::size_t kRows = model::Transformer::kMaxRows;
  const std::size_t cols = config.kv_size();
  const kernels::RopeFrequencies frequencies = kernels::rope_frequencies(config.rope);
  AlignedBuffer<float> k(kRows * cols), v(kRows * cols), angles(kRows * frequencies.theta.size() * 2);
  for (float& x : k) x = static_cast<float>(random.normal());
  for (float& x : v) x = static_cast<float>(random.normal());
  std::vector<std::size_t> positions(kRows);
  for (std::size_t at = 0; at < depth; at += kRows) {
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

/// Bytes of keys and values that attention reads for one token at `length` tokens.
double cache_bytes_read(const model::ModelConfig& config, const cache::CacheUsage& usage, double length) {
  const double values = static_cast<double>(config.layers) * static_cast<double>(config.kv_size());
  return (usage.k_bpv + usage.v_bpv) / 8 * values * length;
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

SpeedResult measure_speed(engine::Engine& engine, const SpeedOptions& options) {
  model::Transformer& transformer = engine.transformer();
  const model::ModelConfig& config = engine.config();
  const std::size_t capacity = options.depth + std::max({options.prompt, options.tokens, std::size_t{1}});
  const Stopwatch creation;
  cache::KvCache cache = engine.make_cache(options.k, options.v, capacity);
  const double created = creation.seconds();
  Random random(1);
  fill(cache, config, options.depth, random);
  const std::vector<Token> prompt = random_tokens(options.prompt, config.vocabulary, random);
  const std::vector<Token> tokens = random_tokens(options.tokens, config.vocabulary, random);

  std::vector<double> prefill, decode, weights, attention;
  const auto count = static_cast<double>(options.tokens);
  const auto forward = [&](std::span<const Token> input) {
    transformer.forward(cache, std::array{model::Input{0, input, 1}});
  };
  forward(random_tokens(1, config.vocabulary, random));  // pages of the weights and workspaces exist
  for (std::size_t r = 0; r < options.repetitions; ++r) {
    if (!prompt.empty()) {
      cache.truncate(0, options.depth);
      const Stopwatch watch;
      forward(prompt);
      prefill.push_back(watch.seconds());
    }
    if (!tokens.empty()) {
      cache.truncate(0, options.depth);
      transformer.reset_profile();
      const Stopwatch watch;
      for (const Token& token : tokens) forward({&token, 1});
      decode.push_back(watch.seconds() / count);
      weights.push_back(transformer.profile().weights / count);
      attention.push_back(transformer.profile().attention / count);
    }
    if (options.progress) options.progress(r + 1, options.repetitions, {});
  }

  SpeedResult result;
  result.usage = cache.usage();
  result.create_ms = 1e3 * created;
  result.rss_bytes = resident_bytes();
  if (!prefill.empty()) {
    const auto n = static_cast<double>(options.prompt);
    result.prefill_tps = n / median(prefill);
    result.prefill_gflops = 2e-9 * matrix_values(engine.weights()) * result.prefill_tps;
  }
  if (!decode.empty()) {
    const double length = static_cast<double>(options.depth) + (count + 1) / 2;  // mean over the decoded tokens
    const double bytes =
        static_cast<double>(engine.weights().bytes_per_token()) + cache_bytes_read(config, result.usage, length);
    result.decode_ms = 1e3 * median(decode);
    result.weights_ms = 1e3 * median(weights);
    result.attention_ms = 1e3 * median(attention);
    result.decode_gb_s = 1e-9 * bytes / median(decode);
  }
  return result;
}

}  // namespace kvant::bench
