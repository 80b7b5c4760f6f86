#pragma once
#include <cstddef>
#include <span>
#include <vector>

namespace kvant::cache {

/// Consecutive new tokens of one sequence, which lie in consecutive rows of a forward batch.
struct Segment {
  int sequence;           ///< 0 .. sequences - 1
  std::size_t first_row;  ///< row of its first token in the batch
  std::size_t count;      ///< tokens, >= 1
  std::size_t position;   ///< position of its first token in the sequence (= tokens already there)
};

/// The rows of one forward pass. Each sequence appears at most once.
struct Batch {
  std::span<const Segment> segments;
  std::size_t rows = 0;         ///< sum of the counts
  const float* rope = nullptr;  ///< cos and sin for every row, [rows][pairs][2] f32 (kernels/rope/rope.h)
};

}  // namespace kvant::cache
