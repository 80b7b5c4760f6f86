#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "gguf/reader.h"

namespace kvant::integration {

/// Logits after every token of one sequence, [tokens][vocabulary], by an independent forward pass: plain loops in
/// double on the file's decoded weights, without cache, batch or reordering. Architectures qwen2, qwen3 and llama.
std::vector<std::vector<double>> reference_logits(const gguf::File& file, std::span<const std::int32_t> tokens);

}  // namespace kvant::integration
