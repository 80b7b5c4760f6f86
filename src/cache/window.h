#pragma once
#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "cache/batch.h"
#include "cache/memory.h"
#include "kernels/attention/attention.h"
#include "kernels/encode/encode.h"

namespace kvant::cache {

/// The first `sinks` tokens of each sequence and the `recent` ones before each query (itself among them) in f16, for
/// one side of a cache. Their pages hold them too, so a token that leaves the window costs nothing.
///
/// Kept is what the next query can need. The tokens of a longer batch, and those that its first queries look back to,
/// lie beside each other until the next layer's come: every query has its whole window however the tokens come.
class Window {
 public:
  struct Shape {
    std::size_t sinks, recent;  ///< tokens
    std::size_t layers, sequences, kv_heads;
    std::size_t dims;  ///< of a stored vector, a multiple of 32
  };
  Window(const Shape& shape, Isa isa);
  static std::size_t bytes(const Shape& shape);

  /// Makes room for a batch's tokens, before they are stored.
  void begin(std::size_t layer, const Batch& batch);
  /// Forgets tokens of a sequence from position `length` on. Of those before it the window may hold fewer than it did
  /// when they were the last ones; the others are read from the pages.
  void truncate(std::size_t layer, std::size_t sequence, std::size_t length);
  /// Makes what it holds of `to` a copy of what it holds of the first `length` tokens of `from`.
  void fork(std::size_t layer, std::size_t from, std::size_t to, std::size_t length);

  /// Stores a rotated vector of the batch, whose sequence will end at `end`; false when it does not fit f16.
  bool store(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t position, std::size_t end,
             const float* x) const;

  /// Consecutive tokens of a page, with vectors of f16 one after the other; there is memory up to a multiple of
  /// kernels::kScoreTokens.
  struct Run {
    const std::byte* vectors;
    std::size_t token, count;  ///< of the page
    bool sinks;                ///< every query sees them in f16
  };
  struct Runs {
    std::array<Run, 4> runs;
    std::size_t count = 0;
  };
  /// The tokens of a page (of positions [start, start + tokens)) that are in the window of a query at `query` or of a
  /// later one of the same batch, which was the last to be stored in this layer.
  Runs runs(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t start, std::size_t tokens,
            std::size_t query) const;
  /// How many of a run's tokens, from its first on, are before the window of a query.
  std::size_t outside(const Run& run, std::size_t start, std::size_t query) const noexcept {
    const std::size_t first = query + 1 - std::min(query + 1, shape_.recent), at = start + run.token;
    return run.sinks || first <= at ? 0 : std::min(run.count, first - at);
  }

  const kernels::TypeKernels& kernels() const noexcept { return *kernels_; }
  std::size_t bytes() const noexcept { return memory_.bytes(); }
  /// Of the tokens of the last batch.
  std::size_t workspace_bytes() const noexcept { return batch_.bytes(); }
  /// What is kept of a sequence, f16 [kv_heads][sinks + recent][dims].
  std::span<std::byte> vectors(std::size_t layer, std::size_t sequence) noexcept;
  /// First position of a sequence's recent ones that is held.
  std::size_t& held_from(std::size_t layer, std::size_t sequence) noexcept {
    return held_from_[layer * shape_.sequences + sequence];
  }
  /// Zeroes in a copy of vectors() what is not of the sequence's first `length` tokens.
  void clear_rest(std::size_t layer, std::size_t sequence, std::size_t length, std::span<std::byte> copy) const;
  /// To be called where vectors() and held_from() of a sequence were changed: the last batch says nothing of it.
  void forget_batch(std::size_t sequence) noexcept { stretches_[sequence].count = 0; }

 private:
  /// Tokens [from, from + count) of a sequence in batch_, [kv_heads][count][dims] from `offset` on.
  struct Stretch {
    std::size_t layer, from, count = 0, offset;
  };
  const Stretch* stretch(std::size_t layer, std::size_t sequence) const noexcept;
  std::byte* batch_slot(const Stretch& stretch, std::size_t kv_head, std::size_t position) const noexcept;
  std::byte* slot(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t index) const noexcept;

  Shape shape_;
  kernels::EncodeFunction encode_;
  const kernels::TypeKernels* kernels_;
  std::vector<std::size_t> held_from_;  ///< [layers][sequences]
  Memory memory_;                       ///< f16 [layers][sequences][kv_heads][sinks + recent][dims]
  std::vector<Stretch> stretches_;      ///< of each sequence
  Memory batch_{0};                     ///< of the layer that was stored last
};

}  // namespace kvant::cache
