#pragma once
#include <cstddef>
#include <vector>

#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "base/view.h"
#include "cache/batch.h"
#include "cache/block_table.h"
#include "cache/side.h"

namespace kvant::cache {

/// Attention of a batch over one layer's pages.
///
/// Keys are taken in chunks of 512 tokens on a grid of absolute positions: scores of all pages of a chunk, one softmax,
/// then the values of all its pages; a query's chunks are merged in order. Segments of a few tokens (decoding) spread
/// their chunks over the threads, longer ones (prefill) their queries. Either way each query's sums have the same
/// order, so its result has the same bits whatever the number of threads, the other rows of the batch and the chunks of
/// the prefill.
class Attend {
 public:
  struct Shape {
    std::size_t kv_heads;
    std::size_t group;  ///< query heads of each KV head
    std::size_t head_dim;
    float score_scale;
  };
  /// Holds the workspace for one new token in each of `sequences` sequences of up to `capacity` tokens that share no
  /// blocks; it grows when a batch needs more. The blocks of all sequences lie where `blocks` says.
  Attend(const Shape& shape, const Side& keys, const Side& values, const BlockTable& blocks, ThreadPool& pool,
         const kernels::AttentionKernels& kernels, std::size_t sequences, std::size_t capacity);

  /// As KvCache::attend; the pages hold the batch's own tokens.
  void operator()(std::size_t layer, const Batch& batch, MatView<const float> q, MatView<float> out);

  /// Bytes of scratch memory held at present.
  std::size_t workspace_bytes() const noexcept;

 private:
  /// The queries of consecutive tokens of a segment that share a KV head: row r is head r % group of token r / group.
  struct Tile {
    const Segment* segment;
    std::size_t kv_head;
    std::size_t first, tokens;                                          ///< of the segment
    std::size_t position() const { return segment->position + first; }  ///< of the first one
    std::size_t end() const { return position() + tokens; }             ///< tokens that the last one sees
  };
  /// A tile over all its chunks, or over one of them, which a merge joins with the others.
  struct Task {
    Tile tile;
    std::size_t merge;  ///< an index, or kWhole
    std::size_t chunk;
  };
  static constexpr std::size_t kWhole = ~std::size_t{0};
  /// The chunks of a split tile, in the partial rows from `partial` on.
  struct Merge {
    std::size_t chunks;
    std::size_t left;  ///< not attended to yet
    std::size_t partial;
  };
  /// What one thread works with: rows of one tile, one decoded page, the logits of a chunk [pages][rows][64].
  struct Scratch {
    QueryRows q;
    const Segment* segment = nullptr;  ///< with kv_head: whose queries q holds
    std::size_t kv_head = 0, first = 0;
    AlignedBuffer<float> anchor_re, anchor_im;  ///< products of the queries with the anchor, [rows][padded pairs]
    AlignedBuffer<float> part, total, logits, page;
    AlignedBuffer<float> window_logits;
    AlignedBuffer<std::size_t> visible;
    AlignedBuffer<kernels::SoftmaxState> part_states, total_states;
  };
  struct Call;
  /// A page of the keys or values of a tile.
  struct Page {
    std::size_t index, start;  ///< position of its first token
    std::size_t tokens;        ///< that the tile's last query sees
    std::size_t sequence, slot;
  };

  void plan(const Batch& batch);
  void load_queries(const Call& call, const Tile& tile, Scratch& s) const;
  void attend_chunk(const Call& call, const Tile& tile, std::size_t chunk, Scratch& s, kernels::SoftmaxState* states,
                    float* out) const;
  Page page_at(const Tile& tile, std::size_t index) const;
  kernels::Upcoming upcoming(const Call& call, const Tile& tile, std::size_t first, std::size_t end,
                             std::size_t i) const;
  void score(const Call& call, const Tile& tile, const Page& page, const kernels::Upcoming& next, Scratch& s,
             float* logits) const;
  void mix(const Call& call, const Tile& tile, const Page& page, const kernels::Upcoming& next, Scratch& s,
           float* weights, float* out) const;
  void attend_tile(const Call& call, const Tile& tile, Scratch& s) const;
  void merge_partials(const Call& call, const Tile& tile, const Merge& merge, Scratch& s) const;
  void finish(const Call& call, const Tile& tile, Scratch& s) const;

  Shape shape_;
  const Side* keys_;
  const Side* values_;
  const BlockTable* blocks_;
  std::size_t key_dims_, dims_;  ///< of stored keys, and of values and so of the sums
  std::size_t tile_tokens_;
  ThreadPool* pool_;
  const kernels::AttentionKernels* kernels_;
  std::vector<Scratch> scratch_;  ///< of each thread
  std::vector<Task> tasks_;       ///< of the current batch
  std::vector<Merge> merges_;     ///< likewise
  AlignedBuffer<float> partial_;  ///< [rows][dims] of split tiles, a chunk's rows adjacent
  AlignedBuffer<kernels::SoftmaxState> partial_states_;
};

}  // namespace kvant::cache
