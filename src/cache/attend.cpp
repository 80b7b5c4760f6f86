#include "cache/attend.h"

#include <algorithm>

namespace kvant::cache {
namespace {

constexpr std::size_t kChunkPages = 8;
constexpr std::size_t kChunkTokens = kChunkPages * kPageTokens;
constexpr std::size_t kSplitTokens = 8;  ///< segments of up to this many tokens spread their chunks over the threads
constexpr std::size_t kTileRows = 96;    ///< about the rows of a tile of a longer segment
constexpr std::size_t kFusedRows = 12;   ///< with more rows, decoding a page once pays for storing it

std::size_t chunks_of(std::size_t tokens) { return (tokens + kChunkTokens - 1) / kChunkTokens; }

}  // namespace

struct Attend::Call {
  const Side& keys;
  const Side& values;
  std::size_t layer;
  MatView<const float> q;
  MatView<float> out;
};

Attend::Attend(const Shape& shape, ThreadPool& pool, const kernels::AttentionKernels& kernels, std::size_t sequences,
               std::size_t capacity)
    : shape_(shape),
      dims_(round_up(shape.head_dim, gguf::kBlock)),
      tile_tokens_(std::max(kSplitTokens, kTileRows / shape.group)),
      pool_(&pool),
      kernels_(&kernels),
      decoded_(&kernels.of(gguf::TensorType::f32)) {
  const std::size_t rows = tile_tokens_ * shape.group;
  for (int i = 0; i < pool.threads(); ++i) {
    Scratch s;
    for (auto* buffer : {&s.q, &s.part, &s.total}) *buffer = AlignedBuffer<float>(rows * dims_);
    s.logits = AlignedBuffer<float>(rows * kPageTokens);
    s.rescale = AlignedBuffer<float>(rows);
    s.page = AlignedBuffer<float>(kPageTokens * dims_);
    s.visible = AlignedBuffer<std::size_t>(rows);
    s.part_states = AlignedBuffer<kernels::SoftmaxState>(rows);
    s.total_states = AlignedBuffer<kernels::SoftmaxState>(rows);
    scratch_.push_back(std::move(s));
  }
  const std::size_t chunks = sequences * shape.kv_heads * chunks_of(capacity);
  tasks_.reserve(chunks);
  merges_.reserve(sequences * shape.kv_heads);
  partial_ = AlignedBuffer<float>(chunks * shape.group * dims_);
  partial_states_ = AlignedBuffer<kernels::SoftmaxState>(chunks * shape.group);
}

std::size_t Attend::workspace_bytes() const noexcept {
  std::size_t bytes =
      partial_.size_bytes() + partial_states_.size_bytes() + (tasks_.capacity() + merges_.capacity()) * sizeof(Task);
  for (const Scratch& s : scratch_) {
    for (const auto* buffer : {&s.q, &s.part, &s.total, &s.logits, &s.rescale, &s.page}) bytes += buffer->size_bytes();
    bytes += s.visible.size_bytes() + s.part_states.size_bytes() + s.total_states.size_bytes();
  }
  return bytes;
}

void Attend::plan(const Batch& batch) {
  tasks_.clear();
  merges_.clear();
  std::size_t partial = 0;
  for (const Segment& segment : batch.segments) {
    const std::size_t chunks = chunks_of(segment.position + segment.count);
    const bool split = segment.count <= kSplitTokens && chunks > 1;
    // The last tiles see the most: first come, first served keeps the threads busy to the end.
    for (std::size_t tiles = split ? 1 : (segment.count + tile_tokens_ - 1) / tile_tokens_; tiles-- > 0;) {
      const std::size_t first = tiles * tile_tokens_;
      for (std::size_t h = 0; h < shape_.kv_heads; ++h) {
        const Tile tile{&segment, h, first, std::min(tile_tokens_, segment.count - first)};
        if (!split) {
          tasks_.push_back({tile, false, 0, 0});
          continue;
        }
        merges_.push_back({tile, true, chunks, partial});
        for (std::size_t c = 0; c < chunks; ++c, partial += tile.tokens * shape_.group) {
          tasks_.push_back({tile, true, c, partial});
        }
      }
    }
  }
  if (partial > partial_states_.size()) {
    partial_ = AlignedBuffer<float>(partial * dims_);
    partial_states_ = AlignedBuffer<kernels::SoftmaxState>(partial);
  }
}

void Attend::operator()(const Side& keys, const Side& values, std::size_t layer, const Batch& batch,
                        MatView<const float> q, MatView<float> out) {
  plan(batch);
  const Call call{keys, values, layer, q, out};
  pool_->run(tasks_.size(), [&](std::size_t i, int thread) {
    const Task& task = tasks_[i];
    Scratch& s = scratch_[static_cast<std::size_t>(thread)];
    if (!task.split) return attend_tile(call, task.tile, s);
    load_queries(call, task.tile, s.q.data());
    attend_chunk(call, task.tile, task.chunk, s, &partial_states_[task.partial],
                 partial_.data() + task.partial * dims_);
  });
  pool_->run(merges_.size(), [&](std::size_t i, int thread) {
    merge_partials(call, merges_[i], scratch_[static_cast<std::size_t>(thread)]);
  });
}

void Attend::load_queries(const Call& call, const Tile& tile, float* q) const {
  for (std::size_t r = 0; r < tile.tokens * shape_.group; ++r, q += dims_) {
    const std::size_t head = tile.kv_head * shape_.group + r % shape_.group;
    const float* from = call.q.row(tile.segment->first_row + tile.first + r / shape_.group).data();
    std::copy_n(from + head * shape_.head_dim, shape_.head_dim, q);
    std::fill(q + shape_.head_dim, q + dims_, 0.0F);
    call.keys.transform(q);
  }
}

/// One page for all rows of the tile: scores, softmax, values.
void Attend::attend_page(const Call& call, const Tile& tile, std::size_t page, Scratch& s,
                         kernels::SoftmaxState* states, float* out) const {
  const std::size_t rows = tile.tokens * shape_.group;
  const std::size_t start = page * kPageTokens;
  const std::size_t tokens = std::min(kPageTokens, tile.end() - start);
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t sees = tile.end() - tile.tokens + r / shape_.group + 1;
    s.visible[r] = sees > start ? std::min(kPageTokens, sees - start) : 0;
  }
  const PageStore& key_pages = call.keys.layers[call.layer];
  const PageStore& value_pages = call.values.layers[call.layer];
  const auto sequence = static_cast<std::size_t>(tile.segment->sequence);
  const std::byte* keys = key_pages.page(sequence, tile.kv_head, page);
  const std::byte* values = value_pages.page(sequence, tile.kv_head, page);
  const bool last = start + kPageTokens >= tile.end();
  kernels::ScoreArgs score{s.q.data(), rows, dims_, keys, tokens, s.logits.data(), {values, value_pages.page_bytes()}};
  kernels::MixArgs mix{
      s.logits.data(), s.rescale.data(), rows, dims_,
      values,          tokens,           out,  {keys + key_pages.page_bytes(), last ? 0 : key_pages.page_bytes()}};
  const bool fused = rows <= kFusedRows;
  if (!fused) score.keys = decode(call.keys, keys, tokens, s);
  (fused ? call.keys.kernels : decoded_)->score(score);
  kernels_->softmax({rows, shape_.score_scale, s.visible.data(), s.logits.data(), states, s.rescale.data()});
  if (!fused) mix.values = decode(call.values, values, tokens, s);
  (fused ? call.values.kernels : decoded_)->mix(mix);
}

/// The page in f32, as pages of that type lie.
const std::byte* Attend::decode(const Side& side, const std::byte* page, std::size_t tokens, Scratch& s) const {
  side.kernels->decode(page, tokens * dims_, s.page.data());
  return reinterpret_cast<const std::byte*>(s.page.data());
}

void Attend::attend_chunk(const Call& call, const Tile& tile, std::size_t chunk, Scratch& s,
                          kernels::SoftmaxState* states, float* out) const {
  const std::size_t rows = tile.tokens * shape_.group;
  std::fill_n(states, rows, kernels::SoftmaxState{});
  std::fill_n(out, rows * dims_, 0.0F);
  const std::size_t end = std::min((tile.end() + kPageTokens - 1) / kPageTokens, (chunk + 1) * kChunkPages);
  for (std::size_t page = chunk * kChunkPages; page < end; ++page) attend_page(call, tile, page, s, states, out);
}

void Attend::attend_tile(const Call& call, const Tile& tile, Scratch& s) const {
  const std::size_t rows = tile.tokens * shape_.group;
  load_queries(call, tile, s.q.data());
  std::fill_n(s.total_states.data(), rows, kernels::SoftmaxState{});
  for (std::size_t chunk = 0; chunk < chunks_of(tile.end()); ++chunk) {
    attend_chunk(call, tile, chunk, s, s.part_states.data(), s.part.data());
    for (std::size_t r = 0; r < rows; ++r) {
      kernels_->merge(s.total_states[r], s.total.data() + r * dims_, s.part_states[r], s.part.data() + r * dims_,
                      dims_);
    }
  }
  finish(call, tile, s);
}

void Attend::merge_partials(const Call& call, const Task& task, Scratch& s) const {
  const std::size_t rows = task.tile.tokens * shape_.group;
  std::fill_n(s.total_states.data(), rows, kernels::SoftmaxState{});
  for (std::size_t i = 0; i < task.chunk * rows; ++i) {
    const std::size_t r = i % rows;
    kernels_->merge(s.total_states[r], s.total.data() + r * dims_, partial_states_[task.partial + i],
                    partial_.data() + (task.partial + i) * dims_, dims_);
  }
  finish(call, task.tile, s);
}

/// Divides by the sums of the weights and undoes the rotation of the values.
void Attend::finish(const Call& call, const Tile& tile, Scratch& s) const {
  for (std::size_t r = 0; r < tile.tokens * shape_.group; ++r) {
    float* total = s.total.data() + r * dims_;
    const float inverse = 1.0F / s.total_states[r].sum;
    for (std::size_t i = 0; i < shape_.head_dim; ++i) total[i] *= inverse;
    call.values.transform(total);
    const std::size_t head = tile.kv_head * shape_.group + r % shape_.group;
    float* to = call.out.row(tile.segment->first_row + tile.first + r / shape_.group).data();
    std::copy_n(total, shape_.head_dim, to + head * shape_.head_dim);
  }
}

}  // namespace kvant::cache
