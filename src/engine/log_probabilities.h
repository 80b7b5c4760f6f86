#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvant::engine {

/// Natural logarithms of what softmax(logits) gives to the chosen token and to the likeliest ones.
struct LogProbabilities {
  struct Entry {
    std::int32_t token = -1;
    float log_probability = 0;
  };
  Entry chosen;
  std::vector<Entry> top;  ///< likeliest first, ties by lower id
};

/// Of the logits as they are, before any sampling option. logits [vocabulary], finite or -infinity; `top` is at most
/// the vocabulary's size.
LogProbabilities log_probabilities(std::span<const float> logits, std::int32_t chosen, std::size_t top);

}  // namespace kvant::engine
