#include "cache/attend.h"

#include <algorithm>
#include <atomic>

namespace kvant::cache {
namespace {

constexpr std::size_t kChunkPages = 8;
constexpr std::size_t kChunkTokens = kChunkPages * kPageTokens;
constexpr std::size_t kSplitTokens = 8;  ///< segments of up to this many tokens spread their chunks over the threads
constexpr std::size_t kTileRows = 96;    ///< about the rows of a tile of a longer segment

std::size_t chunks_of(std::size_t tokens) { return (tokens + kChunkTokens - 1) / kChunkTokens; }

}  // namespace

struct Attend::Call {
  std::size_t layer;
  MatView<const float> q;
  MatView<float> out;
};

Attend::Attend(const Shape& shape, const Side& keys, const Side& values, const BlockTable& blocks, ThreadPool& pool,
               const kernels::AttentionKernels& kernels, std::size_t sequences, std::size_t capacity)
    : shape_(shape),
      keys_(&keys),
      values_(&values),
      blocks_(&blocks),
      key_dims_(keys.dims()),
      dims_(values.dims()),
      tile_tokens_(std::max(kSplitTokens, kTileRows / shape.group)),
      pool_(&pool),
      kernels_(&kernels) {
  const std::size_t rows = tile_tokens_ * shape.group;
  for (int i = 0; i < pool.threads(); ++i) {
    Scratch s;
    keys.reserve(s.q, rows);
    if (keys.angles() != nullptr) {
      for (auto* buffer : {&s.anchor_re, &s.anchor_im}) {
        *buffer = AlignedBuffer<float>(rows * keys.angles()->padded_pairs());
      }
    }
    for (auto* buffer : {&s.part, &s.total}) *buffer = AlignedBuffer<float>(rows * dims_);
    s.logits = AlignedBuffer<float>(rows * kChunkTokens);
    s.window_logits = AlignedBuffer<float>(rows * kPageTokens);
    s.page = AlignedBuffer<float>(kPageTokens * std::max(key_dims_, dims_));
    s.visible = AlignedBuffer<std::size_t>(rows);
    s.part_states = AlignedBuffer<kernels::SoftmaxState>(rows);
    s.total_states = AlignedBuffer<kernels::SoftmaxState>(rows);
    scratch_.push_back(std::move(s));
  }
  const std::size_t most = std::min(sequences * chunks_of(capacity), blocks.slots() / kChunkPages + sequences);
  const std::size_t chunks = shape.kv_heads * most;
  tasks_.reserve(chunks);
  merges_.reserve(sequences * shape.kv_heads);
  partial_ = AlignedBuffer<float>(chunks * shape.group * dims_);
  partial_states_ = AlignedBuffer<kernels::SoftmaxState>(chunks * shape.group);
}

std::size_t Attend::workspace_bytes() const noexcept {
  std::size_t bytes = partial_.size_bytes() + partial_states_.size_bytes() + tasks_.capacity() * sizeof(Task) +
                      merges_.capacity() * sizeof(Merge);
  for (const Scratch& s : scratch_) {
    for (const auto* buffer :
         {&s.q.f32, &s.q.units, &s.anchor_re, &s.anchor_im, &s.part, &s.total, &s.logits, &s.window_logits, &s.page}) {
      bytes += buffer->size_bytes();
    }
    bytes += s.q.values.size_bytes() + s.q.sums.size_bytes();
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
          tasks_.push_back({tile, kWhole, 0});
          continue;
        }
        for (std::size_t c = 0; c < chunks; ++c) tasks_.push_back({tile, merges_.size(), c});
        merges_.push_back({chunks, chunks, partial});
        partial += chunks * tile.tokens * shape_.group;
      }
    }
  }
  if (partial > partial_states_.size()) {
    partial_ = AlignedBuffer<float>(partial * dims_);
    partial_states_ = AlignedBuffer<kernels::SoftmaxState>(partial);
  }
}

void Attend::operator()(std::size_t layer, const Batch& batch, MatView<const float> q, MatView<float> out) {
  plan(batch);
  const Call call{layer, q, out};
  for (Scratch& s : scratch_) s.segment = nullptr;
  pool_->run(tasks_.size(), [&](std::size_t i, int thread) {
    const Task& task = tasks_[i];
    Scratch& s = scratch_[static_cast<std::size_t>(thread)];
    if (task.merge == kWhole) return attend_tile(call, task.tile, s);
    load_queries(call, task.tile, s);
    Merge& merge = merges_[task.merge];
    const std::size_t row = merge.partial + task.chunk * task.tile.tokens * shape_.group;
    attend_chunk(call, task.tile, task.chunk, s, &partial_states_[row], partial_.data() + row * dims_);
    // Who comes last joins them all, in order.
    if (std::atomic_ref(merge.left).fetch_sub(1, std::memory_order_acq_rel) == 1) {
      merge_partials(call, task.tile, merge, s);
    }
  });
}

/// Fills s.q, unless it holds the tile's queries already: the chunks of a decoded token follow each other.
void Attend::load_queries(const Call& call, const Tile& tile, Scratch& s) const {
  if (s.segment == tile.segment && s.kv_head == tile.kv_head && s.first == tile.first) return;
  s.segment = tile.segment;
  s.kv_head = tile.kv_head;
  s.first = tile.first;
  const Side::Head& head = keys_->head(call.layer, tile.kv_head);
  const std::size_t rows = tile.tokens * shape_.group;
  float* given = s.total.data();  // which sums of values need only later
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t h = tile.kv_head * shape_.group + r % shape_.group;
    const float* from = call.q.row(tile.segment->first_row + tile.first + r / shape_.group).data();
    const float* q = from + h * shape_.head_dim;
    std::copy_n(q, shape_.head_dim, given + r * shape_.head_dim);
    if (!head.basis.pairs.re.empty()) {
      const std::size_t pairs = keys_->angles()->padded_pairs();
      kernels::anchor_products(*keys_->angles(), head.basis.pairs, q, s.anchor_re.data() + r * pairs,
                               s.anchor_im.data() + r * pairs);
    }
  }
  head.basis.queries(given, rows, shape_.head_dim, s.q.f32.data(), key_dims_);
  for (std::size_t r = 0; r < rows; ++r) head.codec->rotate(s.q.f32.data() + r * key_dims_);
  head.codec->prepare(s.q, rows);
}

Attend::Page Attend::page_at(const Tile& tile, std::size_t index) const {
  const auto sequence = static_cast<std::size_t>(tile.segment->sequence);
  const std::size_t start = index * kPageTokens;
  return {index, start, std::min(kPageTokens, tile.end() - start), sequence, blocks_->slot(sequence, index)};
}

/// What is read after step i over the pages [first, end) of a chunk: of all of them the keys, then the values; then the
/// keys of the next chunk. Nothing lies behind the tile's last page.
kernels::Upcoming Attend::upcoming(const Call& call, const Tile& tile, std::size_t first, std::size_t end,
                                   std::size_t i) const {
  const auto at = [&](std::size_t step) -> kernels::Upcoming {
    const std::size_t count = end - first;
    const bool values = step >= count && step < 2 * count;
    const std::size_t page = first + step - (step >= count ? count : 0);
    if (page * kPageTokens >= tile.end()) return {};
    const PageStore& pages = (values ? *values_ : *keys_).pages(call.layer);
    const std::size_t slot = blocks_->slot(static_cast<std::size_t>(tile.segment->sequence), page);
    return {pages.page(tile.kv_head, slot), pages.page_bytes(tile.kv_head)};
  };
  kernels::Upcoming next = at(i + 1);
  next.beyond = at(i + 2).data;
  return next;
}

/// The logits of one page for all rows of the tile.
void Attend::score(const Call& call, const Tile& tile, const Page& page, const kernels::Upcoming& next, Scratch& s,
                   float* logits) const {
  const std::size_t rows = tile.tokens * shape_.group;
  const Side::Head& head = keys_->head(call.layer, tile.kv_head);
  head.codec->score({keys_->pages(call.layer).page(tile.kv_head, page.slot), rows, page.tokens, next, s.page.data()},
                    s.q, logits);
  if (const Window* window = keys_->window()) {
    const auto held = window->runs(call.layer, page.sequence, tile.kv_head, page.start, page.tokens, tile.position());
    for (std::size_t i = 0; i < held.count; ++i) {
      const auto& run = held.runs[i];
      window->kernels().score({s.q.f32.data(), rows, key_dims_, run.vectors, run.count, s.window_logits.data()});
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t skip = window->outside(run, page.start, tile.position() + r / shape_.group);
        std::copy_n(s.window_logits.data() + r * kPageTokens + skip, run.count - skip,
                    logits + r * kPageTokens + run.token + skip);
      }
    }
  }
  if (!head.basis.pairs.re.empty()) {
    keys_->add_anchor()(
        {*keys_->angles(), head.basis.pairs, s.anchor_re.data(), s.anchor_im.data(), rows, page.index, logits});
  }
}

/// Adds the values of one page by these weights, which it may change.
void Attend::mix(const Call& call, const Tile& tile, const Page& page, const kernels::Upcoming& next, Scratch& s,
                 float* weights, float* out) const {
  const std::size_t rows = tile.tokens * shape_.group;
  if (const Window* window = values_->window()) {
    const auto held = window->runs(call.layer, page.sequence, tile.kv_head, page.start, page.tokens, tile.position());
    for (std::size_t i = 0; i < held.count; ++i) {
      const auto& run = held.runs[i];
      for (std::size_t r = 0; r < rows; ++r) {
        const std::size_t skip = window->outside(run, page.start, tile.position() + r / shape_.group);
        float* coded = weights + r * kPageTokens + run.token + skip;
        float* held_weights = s.window_logits.data() + r * kPageTokens;
        std::fill_n(held_weights, skip, 0.0F);
        std::copy_n(coded, run.count - skip, held_weights + skip);
        std::fill_n(coded, run.count - skip, 0.0F);
      }
      window->kernels().mix({s.window_logits.data(), rows, dims_, run.vectors, run.count, out});
    }
  }
  const std::byte* values = values_->pages(call.layer).page(tile.kv_head, page.slot);
  values_->head(call.layer, tile.kv_head).codec->mix({values, rows, page.tokens, next, s.page.data()}, weights, out);
}

void Attend::attend_chunk(const Call& call, const Tile& tile, std::size_t chunk, Scratch& s,
                          kernels::SoftmaxState* states, float* out) const {
  const std::size_t rows = tile.tokens * shape_.group, start = chunk * kChunkTokens;
  const std::size_t first = chunk * kChunkPages;
  const std::size_t end = std::min((tile.end() + kPageTokens - 1) / kPageTokens, first + kChunkPages);
  const auto logits = [&](std::size_t page) { return s.logits.data() + (page - first) * rows * kPageTokens; };
  for (std::size_t page = first; page < end; ++page) {
    score(call, tile, page_at(tile, page), upcoming(call, tile, first, end, page - first), s, logits(page));
  }
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t sees = tile.position() + r / shape_.group + 1;
    s.visible[r] = sees > start ? std::min(kChunkTokens, sees - start) : 0;
  }
  kernels_->softmax({rows, end - first, shape_.score_scale, s.visible.data(), s.logits.data(), states});
  std::fill_n(out, rows * dims_, 0.0F);
  for (std::size_t page = first; page < end; ++page) {
    mix(call, tile, page_at(tile, page), upcoming(call, tile, first, end, end - first + page - first), s, logits(page),
        out);
  }
}

void Attend::attend_tile(const Call& call, const Tile& tile, Scratch& s) const {
  const std::size_t rows = tile.tokens * shape_.group;
  load_queries(call, tile, s);
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

void Attend::merge_partials(const Call& call, const Tile& tile, const Merge& merge, Scratch& s) const {
  const std::size_t rows = tile.tokens * shape_.group;
  std::fill_n(s.total_states.data(), rows, kernels::SoftmaxState{});
  for (std::size_t i = 0; i < merge.chunks * rows; ++i) {
    const std::size_t r = i % rows;
    kernels_->merge(s.total_states[r], s.total.data() + r * dims_, partial_states_[merge.partial + i],
                    partial_.data() + (merge.partial + i) * dims_, dims_);
  }
  finish(call, tile, s);
}

/// Divides by the sums of the weights and takes the values out of the basis that they are stored in.
void Attend::finish(const Call& call, const Tile& tile, Scratch& s) const {
  const Side::Head& head = values_->head(call.layer, tile.kv_head);
  const std::size_t rows = tile.tokens * shape_.group;
  for (std::size_t r = 0; r < rows; ++r) {
    float* total = s.total.data() + r * dims_;
    const float inverse = 1.0F / s.total_states[r].sum;
    for (std::size_t i = 0; i < dims_; ++i) total[i] *= inverse;
    head.codec->unrotate(total);
  }
  const float* outputs = s.part.data();
  head.basis.outputs(s.total.data(), dims_, rows, shape_.head_dim, s.part.data());
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t h = tile.kv_head * shape_.group + r % shape_.group;
    float* to = call.out.row(tile.segment->first_row + tile.first + r / shape_.group).data();
    std::copy_n(outputs + r * shape_.head_dim, shape_.head_dim, to + h * shape_.head_dim);
  }
}

}  // namespace kvant::cache
