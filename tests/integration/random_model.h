#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "gguf/writer.h"

namespace kvant::integration {

/// A model with random weights, written as a GGUF file in memory.
struct RandomModel {
  std::string architecture = "qwen2";
  int layers = 2;
  int heads = 2;
  int kv_heads = 1;
  std::size_t head_dim = 64;
  std::size_t embedding = 128;
  std::size_t feed_forward = 192;
  std::size_t vocabulary = 96;
  std::size_t context = 64;
  bool tied = false;
  bool biases = true;
  gguf::TensorType type = gguf::TensorType::f32;  ///< of all matrices
  std::uint64_t seed = 1;
  std::function<void(gguf::Writer&)> more = {};  ///< adds further metadata and tensors
  std::string without = {};                      ///< a tensor to leave out
  std::string reshaped = {};                     ///< a tensor to write with 32 rows too many

  /// The file's bytes. Each matrix has entries of variance 1 / inputs, so that activations keep their size.
  std::vector<std::byte> bytes() const;
};

/// `values` random values of a type, with root mean square `rms`: encoded normal values where gguf::quantize knows the
/// type, else random codes under scales that give the rms.
std::vector<std::byte> random_values(gguf::TensorType type, std::size_t values, double rms, std::uint64_t seed);

}  // namespace kvant::integration
