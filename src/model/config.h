#pragma once
#include <cstddef>
#include <string>
#include <string_view>

#include "gguf/reader.h"
#include "kernels/rope/rope.h"

namespace kvant::model {

enum class Architecture { qwen2, qwen3, llama };

/// Sizes and constants of a model, from the metadata of its file. One graph serves all architectures; what differs is
/// here: biases (whether the tensors exist), QK-norm, and the order of RoPE pairs.
struct ModelConfig {
  Architecture architecture = Architecture::qwen2;
  std::string name;
  int layers = 0;
  std::size_t embedding = 0;
  std::size_t feed_forward = 0;
  int heads = 0;     ///< query heads
  int kv_heads = 0;  ///< divides heads
  std::size_t head_dim = 0;
  std::size_t vocabulary = 0;
  std::size_t context = 0;  ///< tokens the model was trained for
  std::size_t window = 0;   ///< sliding window of the attention; 0: none
  float norm_epsilon = 1e-6f;
  float score_scale = 0;          ///< attention logit = score_scale * q.k; 0 means 1 / sqrt(head_dim)
  bool qk_norm = false;           ///< RMS norm of each q and k head before RoPE (qwen3)
  bool interleaved_rope = false;  ///< pairs are channels 2j, 2j + 1 in the file (llama)
  kernels::RopeConfig rope;

  // What a file may ask for at most.
  static constexpr std::size_t kMaxLayers = 1024;
  static constexpr std::size_t kMaxHeads = 1024;
  static constexpr std::size_t kMaxHeadDim = 512;
  static constexpr std::size_t kMaxWidth = std::size_t{1} << 20;    ///< of the embedding and the feed-forward
  static constexpr std::size_t kMaxContext = std::size_t{1} << 30;  ///< tokens

  std::size_t q_size() const { return static_cast<std::size_t>(heads) * head_dim; }
  std::size_t kv_size() const { return static_cast<std::size_t>(kv_heads) * head_dim; }
};

std::string_view name(Architecture architecture) noexcept;

/// Reads and checks the config. Throws format or unsupported naming file, key and both values.
ModelConfig read_config(const gguf::File& file);

}  // namespace kvant::model
