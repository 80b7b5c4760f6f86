#pragma once
#include <cstddef>
#include <vector>

namespace kvant::integration {

/// A GGUF file of a model that was made by hand and finds things again: after any text it predicts the byte that
/// followed the same ten bytes before (an induction head, Olsson et al., 2022). Architecture qwen2, a token for each
/// byte, contexts up to 512.
///
/// The residual has 12 parts of eight values: the byte at a position, the ten bytes before it, and what is predicted;
/// a byte is written as its bits, +1 and -1.
/// - Layer 0: head j attends to the position j + 1 before, and writes its byte to part j + 1. Queries and keys are
///   biases alone, and RoPE of the 24 fast pairs tells offsets apart.
/// - Layer 1: head 0 compares the last ten bytes with the ten before each position, in the 40 pairs that hardly
///   turn, and writes that position's byte to the last part, which the output matrix reads.
std::vector<std::byte> copying_model();

}  // namespace kvant::integration
