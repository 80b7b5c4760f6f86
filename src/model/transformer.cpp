#include "model/transformer.h"

#include <algorithm>
#include <array>

#include "base/checked.h"
#include "base/clock.h"
#include "base/error.h"
#include "model/ops.h"

namespace kvant::model {
namespace {

/// Activations on the device that grow to the largest size asked for and keep it.
class Activations {
 public:
  MatView<float> view(Ops& ops, std::size_t rows, std::size_t cols) {
    const std::size_t values = checked_mul(rows, cols, "activations");
    if (values > size_) {
      data_.reset();  // never both the old and the new
      size_ = 0;
      data_ = ops.allocate(values);
      size_ = values;
    }
    return {data_.get(), rows, cols};
  }
  std::size_t bytes() const noexcept { return size_ * sizeof(float); }

 private:
  Buffer data_{nullptr, [](float*) {}};
  std::size_t size_ = 0;
};

/// Rows of one pass through the layers: pieces of one or more inputs.
struct Chunk {
  std::vector<Token> tokens;
  std::vector<std::size_t> positions;
  std::vector<cache::Segment> segments;
  struct Rows {
    std::size_t first, count;
  };
  std::vector<Rows> wanted;  ///< rows whose logits are wanted

  std::size_t wanted_rows() const {
    std::size_t rows = 0;
    for (const Rows& range : wanted) rows += range.count;
    return rows;
  }
};

}  // namespace

struct Recording::Impl {
  struct Pass {
    Chunk chunk;
    std::vector<Activations> streams;  ///< of each layer
  };
  std::vector<Pass> passes;
  std::size_t used = 0;  ///< passes; others keep their memory

  Pass& next(const Chunk& chunk, int layers) {
    if (used == passes.size()) passes.emplace_back();
    Pass& pass = passes[used++];
    pass.chunk = chunk;
    pass.streams.resize(static_cast<std::size_t>(layers));
    return pass;
  }
};

struct Transformer::Impl {
  Impl(const ModelConfig& config_, const Weights& weights_, ThreadPool& pool, Isa isa, kernels::Precision precision)
      : config(config_),
        weights(weights_),
        frequencies(kernels::rope_frequencies(config_.rope)),
        ops(make_cpu_ops(pool, isa, precision)) {}

  const ModelConfig& config;
  const Weights& weights;
  kernels::RopeFrequencies frequencies;
  std::unique_ptr<Ops> ops;
  Profile profile;
  Tap* tap = nullptr;

  // Activations of a chunk of n rows.
  Activations x;         // [n, E]   the residual stream
  Activations normed;    // [n, E]   input of a block, then its output
  Activations q;         // [n, Q]
  Activations k, v;      // [n, KV]
  Activations mixed;     // [n, Q]   what attention returns
  Activations gate, up;  // [n, F]
  Activations angles;    // [n, 2 * pairs]
  Activations logits;    // [all wanted rows, vocabulary]

  void check(const cache::KvCache& cache, std::span<const Input> inputs) const;
  void run(cache::KvCache& cache, const Chunk& chunk, Recording::Impl::Pass* record, MatView<float> out);
  void replay(cache::KvCache& cache, Recording::Impl::Pass& pass, int layer, MatView<float> out);
  cache::Batch batch_of(const Chunk& chunk);
  void run_layer(cache::KvCache& cache, int layer, const cache::Batch& batch);
  void attention(cache::KvCache& cache, int layer, const cache::Batch& batch);
  void feed_forward(const LayerWeights& w, std::size_t rows);
  void output(const Chunk& chunk, std::size_t rows, MatView<float> out);
  void matmul(MatView<const float> input, std::span<const kernels::Matmul::Product> products);
};

/// The chunk as the cache sees it; the angles stay until the next call.
cache::Batch Transformer::Impl::batch_of(const Chunk& chunk) {
  const std::size_t n = chunk.tokens.size();
  const MatView<float> rope = angles.view(*ops, n, 2 * frequencies.theta.size());
  ops->rope_angles(frequencies, chunk.positions, rope.data);
  return {chunk.segments, n, rope.data};
}

/// The whole pass: [rows of the chunk] tokens -> logits of the rows that are wanted.
void Transformer::Impl::run(cache::KvCache& cache, const Chunk& chunk, Recording::Impl::Pass* record,
                            MatView<float> out) {
  const std::size_t n = chunk.tokens.size();
  const cache::Batch batch = batch_of(chunk);
  const MatView<float> stream = x.view(*ops, n, config.embedding);
  ops->embed(weights.embedding, chunk.tokens, stream);
  for (int layer = 0; layer < config.layers; ++layer) {
    if (record) {
      ops->copy(stream, record->streams[static_cast<std::size_t>(layer)].view(*ops, n, config.embedding));
    }
    run_layer(cache, layer, batch);
  }
  output(chunk, n, out);
}

/// The same from a layer on.
void Transformer::Impl::replay(cache::KvCache& cache, Recording::Impl::Pass& pass, int layer, MatView<float> out) {
  const std::size_t n = pass.chunk.tokens.size();
  const cache::Batch batch = batch_of(pass.chunk);
  ops->copy(pass.streams[static_cast<std::size_t>(layer)].view(*ops, n, config.embedding),
            x.view(*ops, n, config.embedding));
  for (; layer < config.layers; ++layer) run_layer(cache, layer, batch);
  output(pass.chunk, n, out);
}

void Transformer::Impl::run_layer(cache::KvCache& cache, int layer, const cache::Batch& batch) {
  attention(cache, layer, batch);
  feed_forward(weights.layers[static_cast<std::size_t>(layer)], batch.rows);
}

/// x += W_o attend(rope(norm(W_q h + b_q)), ...) with h = norm(x)
void Transformer::Impl::attention(cache::KvCache& cache, int layer, const cache::Batch& batch) {
  const LayerWeights& w = weights.layers[static_cast<std::size_t>(layer)];
  const std::size_t n = batch.rows;
  const auto stream = x.view(*ops, n, config.embedding), h = normed.view(*ops, n, config.embedding);
  const auto queries = q.view(*ops, n, config.q_size()), out = mixed.view(*ops, n, config.q_size());
  const auto keys = k.view(*ops, n, config.kv_size()), values = v.view(*ops, n, config.kv_size());

  ops->rms_norm(stream, w.attention_norm, config.norm_epsilon, h);
  matmul(h, std::array{kernels::Matmul::Product{w.q, queries}, kernels::Matmul::Product{w.k, keys},
                       kernels::Matmul::Product{w.v, values}});
  if (!w.q_bias.empty()) ops->add_bias(queries, w.q_bias);
  if (!w.k_bias.empty()) ops->add_bias(keys, w.k_bias);
  if (!w.v_bias.empty()) ops->add_bias(values, w.v_bias);
  if (!w.q_norm.empty()) ops->rms_norm_heads(queries, w.q_norm, config.norm_epsilon);
  if (!w.k_norm.empty()) ops->rms_norm_heads(keys, w.k_norm, config.norm_epsilon);
  if (config.interleaved_rope) {
    ops->deinterleave(queries, config.head_dim, config.rope.dims);
    ops->deinterleave(keys, config.head_dim, config.rope.dims);
  }
  ops->rope(batch.rope, frequencies.theta.size(), config.head_dim, queries);

  if (tap != nullptr) tap->on_kv(layer, batch, queries, keys, values);
  const Stopwatch watch;
  cache.append(layer, batch, keys, values);  // the cache rotates the keys itself
  cache.attend(layer, batch, queries, out);
  profile.attention += watch.seconds();

  matmul(out, std::array{kernels::Matmul::Product{w.output, h}});
  ops->add(stream, h);
}

/// x += W_down (silu(W_gate h) * W_up h) with h = norm(x)
void Transformer::Impl::feed_forward(const LayerWeights& w, std::size_t rows) {
  const auto stream = x.view(*ops, rows, config.embedding), h = normed.view(*ops, rows, config.embedding);
  const auto g = gate.view(*ops, rows, config.feed_forward), u = up.view(*ops, rows, config.feed_forward);
  ops->rms_norm(stream, w.feed_forward_norm, config.norm_epsilon, h);
  matmul(h, std::array{kernels::Matmul::Product{w.gate, g}, kernels::Matmul::Product{w.up, u}});
  ops->swiglu(g, u, g);
  matmul(g, std::array{kernels::Matmul::Product{w.down, h}});
  ops->add(stream, h);
}

/// out = W_out norm(x) of the wanted rows, packed.
void Transformer::Impl::output(const Chunk& chunk, std::size_t rows, MatView<float> out) {
  if (out.rows == 0) return;
  const auto stream = x.view(*ops, rows, config.embedding), h = normed.view(*ops, rows, config.embedding);
  std::size_t packed = 0;
  for (const auto& wanted : chunk.wanted) {
    ops->rms_norm(stream.rows_from(wanted.first, wanted.count), weights.output_norm, config.norm_epsilon,
                  h.rows_from(packed, wanted.count));
    packed += wanted.count;
  }
  matmul(h.rows_from(0, packed), std::array{kernels::Matmul::Product{weights.output, out}});
}

void Transformer::Impl::matmul(MatView<const float> input, std::span<const kernels::Matmul::Product> products) {
  const Stopwatch watch;
  ops->matmul(input, products);
  profile.weights += watch.seconds();
}

void Transformer::Impl::check(const cache::KvCache& cache, std::span<const Input> inputs) const {
  const cache::CacheConfig& sizes = cache.config();
  KVANT_CHECK(sizes.layers == config.layers && sizes.heads == config.heads && sizes.kv_heads == config.kv_heads &&
                  sizes.head_dim == config.head_dim && sizes.rope_pairs == frequencies.theta.size(),
              ErrorCode::invalid_argument,
              "the cache is for {} layers of {}/{} heads of {} channels, the model has {} layers of {}/{} heads of {}",
              sizes.layers, sizes.heads, sizes.kv_heads, sizes.head_dim, config.layers, config.heads, config.kv_heads,
              config.head_dim);
  std::vector<bool> used(static_cast<std::size_t>(sizes.sequences));
  for (const Input& input : inputs) {
    KVANT_CHECK(input.sequence >= 0 && input.sequence < sizes.sequences, ErrorCode::invalid_argument,
                "sequence {} is not among the cache's {}", input.sequence, sizes.sequences);
    KVANT_CHECK(!used[static_cast<std::size_t>(input.sequence)], ErrorCode::invalid_argument,
                "sequence {} appears twice in a batch", input.sequence);
    used[static_cast<std::size_t>(input.sequence)] = true;
    KVANT_CHECK(input.logits <= input.tokens.size(), ErrorCode::invalid_argument,
                "logits of {} rows are wanted of {} tokens", input.logits, input.tokens.size());
    const std::size_t length = cache.length(input.sequence);
    KVANT_CHECK(input.tokens.size() <= sizes.capacity - length, ErrorCode::invalid_argument,
                "the cache holds {} of {} tokens, {} more do not fit", length, sizes.capacity, input.tokens.size());
    for (const Token token : input.tokens) {
      KVANT_CHECK(token >= 0 && static_cast<std::size_t>(token) < config.vocabulary, ErrorCode::invalid_argument,
                  "token {} is outside the vocabulary of {}", token, config.vocabulary);
    }
  }
}

Recording::Recording() : impl_(std::make_unique<Impl>()) {}
Recording::~Recording() = default;
Recording::Recording(Recording&&) noexcept = default;
Recording& Recording::operator=(Recording&&) noexcept = default;

Transformer::Transformer(const ModelConfig& config, const Weights& weights, ThreadPool& pool, Isa isa,
                         kernels::Precision precision)
    : impl_(std::make_unique<Impl>(config, weights, pool, isa, precision)) {}

Transformer::~Transformer() = default;

MatView<const float> Transformer::forward(cache::KvCache& cache, std::span<const Input> inputs, Recording* record) {
  Impl& m = *impl_;
  m.check(cache, inputs);
  if (record) record->impl_->used = 0;
  const Stopwatch watch;
  const double before = m.profile.weights + m.profile.attention;
  std::size_t wanted = 0;
  for (const Input& input : inputs) wanted += input.logits;
  const MatView<float> logits = m.logits.view(*m.ops, wanted, m.config.vocabulary);

  Chunk chunk;
  std::size_t done = 0;  // rows of logits
  const auto flush = [&] {
    const std::size_t rows = chunk.wanted_rows();
    Recording::Impl::Pass* pass = record ? &record->impl_->next(chunk, m.config.layers) : nullptr;
    m.run(cache, chunk, pass, logits.rows_from(done, rows));
    done += rows;
    chunk = {};
  };
  for (const Input& input : inputs) {
    const std::size_t start = cache.length(input.sequence), count = input.tokens.size();
    const std::size_t first_wanted = count - input.logits;
    for (std::size_t begin = 0; begin < count;) {
      const std::size_t row = chunk.tokens.size();
      const std::size_t end = std::min(count, begin + kMaxRows - row);
      chunk.segments.push_back({input.sequence, row, end - begin, start + begin});
      for (std::size_t i = begin; i < end; ++i) {
        chunk.tokens.push_back(input.tokens[i]);
        chunk.positions.push_back(start + i);
      }
      const std::size_t from = std::max(begin, first_wanted);
      if (from < end) chunk.wanted.push_back({row + from - begin, end - from});
      begin = end;
      if (chunk.tokens.size() == kMaxRows) flush();
    }
  }
  if (!chunk.tokens.empty()) flush();
  m.profile.other += watch.seconds() - (m.profile.weights + m.profile.attention - before);
  return logits;
}

MatView<const float> Transformer::replay(cache::KvCache& cache, Recording& recording, int layer) {
  Impl& m = *impl_;
  m.check(cache, {});
  KVANT_CHECK(layer >= 0 && layer < m.config.layers, ErrorCode::invalid_argument, "layer {}, the model has {}", layer,
              m.config.layers);
  const Stopwatch watch;
  const double before = m.profile.weights + m.profile.attention;
  const auto passes = std::span(recording.impl_->passes).first(recording.impl_->used);
  std::size_t wanted = 0, done = 0;
  for (const auto& pass : passes) wanted += pass.chunk.wanted_rows();
  const MatView<float> logits = m.logits.view(*m.ops, wanted, m.config.vocabulary);
  for (auto& pass : passes) {
    const std::size_t rows = pass.chunk.wanted_rows();
    m.replay(cache, pass, layer, logits.rows_from(done, rows));
    done += rows;
  }
  m.profile.other += watch.seconds() - (m.profile.weights + m.profile.attention - before);
  return logits;
}

cache::CacheConfig Transformer::cache_config(std::size_t capacity, int sequences) const {
  const ModelConfig& config = impl_->config;
  cache::CacheConfig sizes;
  sizes.layers = config.layers;
  sizes.heads = config.heads;
  sizes.kv_heads = config.kv_heads;
  sizes.head_dim = config.head_dim;
  sizes.rope_pairs = impl_->frequencies.theta.size();
  sizes.rope = impl_->frequencies;
  sizes.score_scale = config.score_scale;
  sizes.capacity = capacity;
  sizes.sequences = sequences;
  return sizes;
}

void Transformer::set_tap(Tap* tap) noexcept { impl_->tap = tap; }

const Profile& Transformer::profile() const noexcept { return impl_->profile; }
void Transformer::reset_profile() noexcept { impl_->profile = {}; }

std::size_t Transformer::workspace_bytes() const noexcept {
  const Impl& m = *impl_;
  std::size_t bytes = m.ops->workspace_bytes();
  for (const auto* a : {&m.x, &m.normed, &m.q, &m.k, &m.v, &m.mixed, &m.gate, &m.up, &m.angles, &m.logits}) {
    bytes += a->bytes();
  }
  return bytes;
}

}  // namespace kvant::model
