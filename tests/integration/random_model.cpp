#include "integration/random_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <utility>

#include "base/half.h"
#include "base/random.h"
#include "gguf/blocks.h"

namespace kvant::integration {
namespace {

using gguf::TensorType;

/// Byte offsets of the f16 scales of a block that gguf::quantize cannot make.
std::vector<std::size_t> scale_offsets(TensorType type) {
  switch (type) {
    case TensorType::q2_k:
      return {offsetof(gguf::BlockQ2_K, d), offsetof(gguf::BlockQ2_K, dmin)};
    case TensorType::q3_k:
      return {offsetof(gguf::BlockQ3_K, d)};
    case TensorType::q4_k:
      return {offsetof(gguf::BlockQ4_K, d), offsetof(gguf::BlockQ4_K, dmin)};
    case TensorType::q5_k:
      return {offsetof(gguf::BlockQ5_K, d), offsetof(gguf::BlockQ5_K, dmin)};
    case TensorType::q6_k:
      return {offsetof(gguf::BlockQ6_K, d)};
    case TensorType::iq4_nl:
      return {offsetof(gguf::BlockIQ4_NL, d)};
    case TensorType::iq4_xs:
      return {offsetof(gguf::BlockIQ4_XS, d)};
    default:
      return {};
  }
}

std::vector<std::byte> random_codes(TensorType type, std::size_t values, double rms, Random& random) {
  const gguf::TypeInfo& info = gguf::info(type);
  std::vector<std::byte> bytes(gguf::row_bytes(type, values));
  for (auto& byte : bytes) byte = static_cast<std::byte>(random.next() & 0xff);
  const auto set_scales = [&](float scale) {
    const F16 half = to_f16(scale);
    for (std::size_t block = 0; block < bytes.size(); block += info.block_bytes) {
      for (const std::size_t offset : scale_offsets(type)) std::memcpy(&bytes[block + offset], &half, sizeof half);
    }
  };
  set_scales(1);
  std::vector<float> decoded(values);
  gguf::dequantize(type, bytes.data(), decoded);
  double sum = 0;
  for (const float v : decoded) sum += static_cast<double>(v) * v;
  set_scales(static_cast<float>(rms / std::sqrt(sum / static_cast<double>(values))));
  return bytes;
}

}  // namespace

std::vector<std::byte> random_values(TensorType type, std::size_t values, double rms, std::uint64_t seed) {
  Random random(seed);
  if (!scale_offsets(type).empty()) return random_codes(type, values, rms, random);
  std::vector<float> normal(values);
  for (float& v : normal) v = static_cast<float>(rms * random.normal());
  std::vector<std::byte> bytes(gguf::row_bytes(type, values));
  gguf::quantize(type, normal, bytes.data());
  return bytes;
}

std::vector<std::byte> RandomModel::bytes() const {
  gguf::Writer writer;
  const auto key = [&](std::string_view suffix) { return fmt::format("{}.{}", architecture, suffix); };
  const auto integer = [&](std::string_view suffix, auto v) { writer.set(key(suffix), static_cast<std::uint32_t>(v)); };
  writer.set("general.architecture", std::string_view(architecture));
  integer("block_count", layers);
  integer("embedding_length", embedding);
  integer("feed_forward_length", feed_forward);
  integer("context_length", context);
  integer("attention.head_count", heads);
  integer("attention.head_count_kv", kv_heads);
  integer("attention.key_length", head_dim);
  integer("attention.value_length", head_dim);
  writer.set(key("attention.layer_norm_rms_epsilon"), 1e-6f);

  std::deque<std::vector<std::byte>> storage;  // lives until the file is written
  std::uint64_t next_seed = seed * 1000;
  const auto add = [&](const std::string& name, TensorType tensor_type, std::vector<std::size_t> shape, double rms,
                       float offset) {
    if (name == without) return;
    if (name == reshaped) shape.back() += 32;
    std::size_t values = 1;
    for (const std::size_t n : shape) values *= n;
    auto data = random_values(tensor_type, values, rms, ++next_seed);
    if (offset != 0) {
      for (std::size_t i = 0; i < values; ++i) {
        float v = 0;
        std::memcpy(&v, &data[4 * i], 4);
        v += offset;
        std::memcpy(&data[4 * i], &v, 4);
      }
    }
    storage.push_back(std::move(data));
    writer.add(name, tensor_type, std::move(shape), storage.back());
  };
  const auto matrix = [&](const std::string& name, std::size_t rows, std::size_t cols) {
    add(name, type, {cols, rows}, 1 / std::sqrt(static_cast<double>(cols)), 0);
  };
  const auto norm = [&](const std::string& name, std::size_t n) { add(name, TensorType::f32, {n}, 0.2, 1); };
  const auto bias = [&](const std::string& name, std::size_t n) { add(name, TensorType::f32, {n}, 0.5, 0); };

  const std::size_t q = static_cast<std::size_t>(heads) * head_dim, kv = static_cast<std::size_t>(kv_heads) * head_dim;
  matrix("token_embd.weight", vocabulary, embedding);
  for (int i = 0; i < layers; ++i) {
    const auto tensor = [&](std::string_view suffix) { return fmt::format("blk.{}.{}", i, suffix); };
    norm(tensor("attn_norm.weight"), embedding);
    matrix(tensor("attn_q.weight"), q, embedding);
    matrix(tensor("attn_k.weight"), kv, embedding);
    matrix(tensor("attn_v.weight"), kv, embedding);
    if (biases) {
      bias(tensor("attn_q.bias"), q);
      bias(tensor("attn_k.bias"), kv);
      bias(tensor("attn_v.bias"), kv);
    }
    if (architecture == "qwen3") {
      norm(tensor("attn_q_norm.weight"), head_dim);
      norm(tensor("attn_k_norm.weight"), head_dim);
    }
    matrix(tensor("attn_output.weight"), embedding, q);
    norm(tensor("ffn_norm.weight"), embedding);
    matrix(tensor("ffn_gate.weight"), feed_forward, embedding);
    matrix(tensor("ffn_up.weight"), feed_forward, embedding);
    matrix(tensor("ffn_down.weight"), embedding, feed_forward);
  }
  norm("output_norm.weight", embedding);
  if (!tied) matrix("output.weight", vocabulary, embedding);
  if (more) more(writer);
  return writer.bytes();
}

}  // namespace kvant::integration
