#pragma once
#include <array>
#include <cstddef>
#include <vector>

#include "cache/memory.h"
#include "kernels/attention/attention.h"
#include "kernels/encode/encode.h"

namespace kvant::cache {

/// The first `sinks` and the last `recent` tokens of each sequence in f16, for one side of a cache. Their pages hold
/// them too, so a token that leaves the window costs nothing.
///
/// A token of a long batch that is no longer among the last ones when the batch has been appended is read from its page
/// even by queries that it is recent for: what the window holds depends on the tokens, not on how they came.
class Window {
 public:
  struct Shape {
    std::size_t sinks, recent;  ///< tokens
    std::size_t layers, sequences, kv_heads;
    std::size_t dims;  ///< of a stored vector, a multiple of 32
  };
  Window(const Shape& shape, Isa isa);
  static std::size_t bytes(const Shape& shape);

  /// Bookkeeping of positions [first, end) of a sequence, before they are stored.
  void extend(std::size_t layer, std::size_t sequence, std::size_t end);
  void truncate(std::size_t layer, std::size_t sequence, std::size_t length);

  /// Stores a rotated vector where its position is in the window of a sequence that will end at `end`; false when it
  /// does not fit f16.
  bool store(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t position, std::size_t end,
             const float* x) const;

  /// Consecutive tokens of a page, with vectors of f16 one after the other; there is memory up to a multiple of
  /// kernels::kScoreTokens.
  struct Run {
    const std::byte* vectors;
    std::size_t token, count;  ///< of the page
  };
  /// The tokens of a page (of positions [start, start + tokens)) that the window holds.
  struct Runs {
    std::array<Run, 4> runs;
    std::size_t count = 0;
  };
  Runs runs(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t start, std::size_t tokens) const;

  const kernels::TypeKernels& kernels() const noexcept { return *kernels_; }
  std::size_t bytes() const noexcept { return memory_.bytes(); }
  Memory& memory() noexcept { return memory_; }
  /// [layers][sequences] first position of the recent ones that is held
  std::vector<std::size_t>& held_from() noexcept { return held_from_; }

 private:
  std::byte* slot(std::size_t layer, std::size_t sequence, std::size_t kv_head, std::size_t index) const noexcept;

  Shape shape_;
  kernels::EncodeFunction encode_;
  const kernels::TypeKernels* kernels_;
  std::vector<std::size_t> held_from_;
  Memory memory_;  ///< f16 [layers][sequences][kv_heads][sinks + recent][dims]
};

}  // namespace kvant::cache
