#include "integration/copying_model.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>

#include "gguf/writer.h"
#include "tokenizer/test_vocab.h"

namespace kvant::integration {
namespace {

constexpr std::size_t kBits = 8, kBytes = 256, kBefore = 10, kParts = kBefore + 2, kWidth = kParts * kBits;
constexpr std::size_t kHeadDim = 128, kPairs = 64, kFastPairs = 24, kFeedForward = 32, kLayers = 2;
constexpr double kRopeBase = 1e10;
/// Of the biases: an offset of one more or less costs 20 nats. Of the bytes' bits: a wrong one costs 12 nats.
constexpr float kOffsetGain = 16, kByteGain = 8;

/// Rows of `cols` values.
struct Matrix {
  Matrix(std::size_t rows, std::size_t columns) : cols(columns), values(rows * columns) {}
  float& at(std::size_t row, std::size_t col) { return values[row * cols + col]; }
  std::size_t cols;
  std::vector<float> values;
};

float bit(std::size_t byte, std::size_t i) { return (byte >> i & 1) != 0 ? 1.0f : -1.0f; }

/// What RMS normalization multiplies by where `parts` of the residual are written.
float normalized(std::size_t parts) { return std::sqrt(static_cast<float>(kParts) / static_cast<float>(parts)); }

/// The dimension of a head that holds value i of those that hardly turn.
std::size_t slow(std::size_t i) {
  const std::size_t pairs = kPairs - kFastPairs;
  return i < pairs ? kFastPairs + i : kPairs + kFastPairs + i - pairs;
}

class Builder {
 public:
  void add(const std::string& name, Matrix matrix) {
    const Matrix& kept = storage_.emplace_back(std::move(matrix));
    const std::size_t rows = kept.values.size() / kept.cols;
    std::vector<std::size_t> shape = {kept.cols};
    if (rows > 1) shape.push_back(rows);
    writer.add(name, gguf::TensorType::f32, std::move(shape), std::as_bytes(std::span(kept.values)));
  }
  void add_ones(const std::string& name) {
    Matrix ones(1, kWidth);
    std::fill(ones.values.begin(), ones.values.end(), 1.0f);
    add(name, std::move(ones));
  }

  gguf::Writer writer;

 private:
  std::deque<Matrix> storage_;  ///< lives until the file is written
};

void add_metadata(gguf::Writer& writer) {
  const auto integer = [&](std::string_view name, std::size_t value) {
    writer.set(fmt::format("qwen2.{}", name), static_cast<std::uint32_t>(value));
  };
  writer.set("general.architecture", std::string_view("qwen2"));
  integer("block_count", kLayers);
  integer("embedding_length", kWidth);
  integer("feed_forward_length", kFeedForward);
  integer("context_length", 512);
  integer("attention.head_count", kBefore);
  integer("attention.head_count_kv", 1);
  integer("attention.key_length", kHeadDim);
  integer("attention.value_length", kHeadDim);
  writer.set("qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
  writer.set("qwen2.rope.freq_base", static_cast<float>(kRopeBase));
  std::vector<std::string> tokens;
  for (std::size_t b = 0; b < kBytes; ++b) {
    tokens.push_back(tokenizer::testing_data::TestVocab::spelled(static_cast<std::uint8_t>(b)));
  }
  writer.set("tokenizer.ggml.model", std::string_view("gpt2"));
  writer.set("tokenizer.ggml.pre", std::string_view("qwen2"));
  writer.set("tokenizer.ggml.tokens", tokens);
  writer.set("tokenizer.ggml.merges", std::vector<std::string>());
}

void add_layer(Builder& builder, std::size_t layer) {
  Matrix q(kBefore * kHeadDim, kWidth), q_bias(1, kBefore * kHeadDim), k(kHeadDim, kWidth), k_bias(1, kHeadDim);
  Matrix v(kHeadDim, kWidth), out(kWidth, kBefore * kHeadDim);
  const float scale = normalized(layer == 0 ? 1 : kBefore + 1);
  for (std::size_t i = 0; i < kBits; ++i) v.at(i, i) = 1 / scale;
  if (layer == 0) {
    for (std::size_t pair = 0; pair < kFastPairs; ++pair) {
      const double turn = std::pow(kRopeBase, -static_cast<double>(pair) / kPairs);
      k_bias.at(0, pair) = kOffsetGain;
      for (std::size_t head = 0; head < kBefore; ++head) {
        const double back = -static_cast<double>(head + 1) * turn;
        q_bias.at(0, head * kHeadDim + pair) = kOffsetGain * static_cast<float>(std::cos(back));
        q_bias.at(0, head * kHeadDim + kPairs + pair) = kOffsetGain * static_cast<float>(std::sin(back));
      }
    }
    for (std::size_t head = 0; head < kBefore; ++head) {
      for (std::size_t i = 0; i < kBits; ++i) out.at((head + 1) * kBits + i, head * kHeadDim + i) = 1;
    }
  } else {
    for (std::size_t i = 0; i < kBefore * kBits; ++i) {
      q.at(slow(i), i) = kByteGain / scale;
      k.at(slow(i), i + kBits) = kByteGain / scale;
    }
    for (std::size_t i = 0; i < kBits; ++i) out.at((kParts - 1) * kBits + i, i) = 1;
  }
  const auto name = [&](std::string_view suffix) { return fmt::format("blk.{}.{}", layer, suffix); };
  builder.add_ones(name("attn_norm.weight"));
  builder.add(name("attn_q.weight"), std::move(q));
  builder.add(name("attn_q.bias"), std::move(q_bias));
  builder.add(name("attn_k.weight"), std::move(k));
  builder.add(name("attn_k.bias"), std::move(k_bias));
  builder.add(name("attn_v.weight"), std::move(v));
  builder.add(name("attn_v.bias"), Matrix(1, kHeadDim));
  builder.add(name("attn_output.weight"), std::move(out));
  builder.add_ones(name("ffn_norm.weight"));
  builder.add(name("ffn_gate.weight"), Matrix(kFeedForward, kWidth));
  builder.add(name("ffn_up.weight"), Matrix(kFeedForward, kWidth));
  builder.add(name("ffn_down.weight"), Matrix(kWidth, kFeedForward));
}

}  // namespace

std::vector<std::byte> copying_model() {
  Builder builder;
  add_metadata(builder.writer);
  Matrix embedding(kBytes, kWidth), output(kBytes, kWidth);
  for (std::size_t byte = 0; byte < kBytes; ++byte) {
    for (std::size_t i = 0; i < kBits; ++i) {
      embedding.at(byte, i) = bit(byte, i);
      output.at(byte, (kParts - 1) * kBits + i) = bit(byte, i);
    }
  }
  builder.add("token_embd.weight", std::move(embedding));
  for (std::size_t layer = 0; layer < kLayers; ++layer) add_layer(builder, layer);
  builder.add_ones("output_norm.weight");
  builder.add("output.weight", std::move(output));
  return builder.writer.bytes();
}

}  // namespace kvant::integration
