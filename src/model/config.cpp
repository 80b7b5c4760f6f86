#include "model/config.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>

#include "base/error.h"

namespace kvant::model {
namespace {

struct ArchitectureInfo {
  Architecture architecture;
  std::string_view name;
  bool qk_norm;
  bool interleaved_rope;
};

constexpr std::array kArchitectures = {
    ArchitectureInfo{Architecture::qwen2, "qwen2", false, false},
    ArchitectureInfo{Architecture::qwen3, "qwen3", true, false},
    ArchitectureInfo{Architecture::llama, "llama", false, true},
};

/// Metadata below "<architecture>.", with range checks.
class Keys {
 public:
  Keys(const gguf::File& file, std::string_view prefix) : file_(file), prefix_(prefix) {}

  std::string key(std::string_view suffix) const { return fmt::format("{}.{}", prefix_, suffix); }
  bool has(std::string_view suffix) const { return file_.find(key(suffix)) != nullptr; }

  std::size_t count(std::string_view suffix, std::size_t low, std::size_t high) const {
    return check(suffix, file_.integer(key(suffix)), low, high);
  }
  std::size_t count(std::string_view suffix, std::size_t low, std::size_t high, std::size_t fallback) const {
    return check(suffix, file_.integer(key(suffix), fallback), low, high);
  }
  /// A finite number greater than zero.
  double positive(std::string_view suffix) const { return check(suffix, file_.number(key(suffix))); }
  double positive(std::string_view suffix, double fallback) const {
    return check(suffix, file_.number(key(suffix), fallback));
  }
  std::string_view text(std::string_view suffix, std::string_view fallback) const {
    return file_.text(key(suffix), fallback);
  }
  const gguf::File& file() const { return file_; }

 private:
  std::size_t check(std::string_view suffix, std::uint64_t value, std::size_t low, std::size_t high) const {
    KVANT_CHECK(value >= low && value <= high, ErrorCode::format, "{}: {} is {}, expected {} to {}", file_.path(),
                key(suffix), value, low, high);
    return static_cast<std::size_t>(value);
  }
  double check(std::string_view suffix, double value) const {
    KVANT_CHECK(std::isfinite(value) && value > 0, ErrorCode::format, "{}: {} is {}, expected a number above 0",
                file_.path(), key(suffix), value);
    return value;
  }

  const gguf::File& file_;
  std::string_view prefix_;
};

const ArchitectureInfo& find_architecture(const gguf::File& file) {
  const std::string_view wanted = file.text("general.architecture");
  for (const auto& info : kArchitectures) {
    if (info.name == wanted) return info;
  }
  fail(ErrorCode::unsupported, "{}: general.architecture is \"{}\", supported are qwen2, qwen3 and llama", file.path(),
       printable(wanted));
}

/// Channels of a head: attention.key_length, or what the heads share of the embedding.
std::size_t read_head_dim(const Keys& keys, std::size_t embedding, std::size_t heads) {
  if (!keys.has("attention.key_length")) {
    KVANT_CHECK(embedding % heads == 0, ErrorCode::format, "{}: {} is {}, which {} = {} does not divide",
                keys.file().path(), keys.key("embedding_length"), embedding, keys.key("attention.head_count"), heads);
  }
  const std::size_t head_dim = keys.count("attention.key_length", 2, ModelConfig::kMaxHeadDim, embedding / heads);
  KVANT_CHECK(head_dim % 2 == 0, ErrorCode::format, "{}: {} is {}, expected an even number", keys.file().path(),
              keys.key("attention.key_length"), head_dim);
  const std::size_t value_dim = keys.count("attention.value_length", 1, ModelConfig::kMaxHeadDim, head_dim);
  KVANT_CHECK(value_dim == head_dim, ErrorCode::unsupported, "{}: {} is {}, but {} is {}; they must be equal",
              keys.file().path(), keys.key("attention.value_length"), value_dim, keys.key("attention.key_length"),
              head_dim);
  return head_dim;
}

void read_rope_scaling(const Keys& keys, std::size_t context, kernels::RopeConfig& rope) {
  using Scaling = kernels::RopeConfig::Scaling;
  // Files written before rope.scaling.* existed state the factor of linear scaling alone.
  const double old_factor = keys.positive("rope.scale_linear", 1);
  rope.factor = keys.positive("rope.scaling.factor", old_factor);
  rope.original_context = keys.count("rope.scaling.original_context_length", 1, ModelConfig::kMaxContext, context);
  rope.attention_factor = keys.positive("rope.scaling.attn_factor", keys.positive("rope.scaling.yarn_attn_factor", 1));
  rope.yarn_beta_fast = keys.positive("rope.scaling.yarn_beta_fast", rope.yarn_beta_fast);
  rope.yarn_beta_slow = keys.positive("rope.scaling.yarn_beta_slow", rope.yarn_beta_slow);

  const std::string_view type = keys.text("rope.scaling.type", rope.factor == 1 ? "none" : "linear");
  if (type == "none") {
    rope.scaling = Scaling::none;
    rope.factor = 1;
  } else if (type == "linear") {
    rope.scaling = Scaling::linear;
  } else if (type == "yarn") {
    rope.scaling = Scaling::yarn;
  } else {
    fail(ErrorCode::unsupported, "{}: {} is \"{}\", supported are none, linear and yarn", keys.file().path(),
         keys.key("rope.scaling.type"), printable(type));
  }
  KVANT_CHECK(rope.scaling == Scaling::yarn || rope.attention_factor == 1, ErrorCode::unsupported,
              "{}: {} is {}, which is supported with yarn scaling only", keys.file().path(),
              keys.key("rope.scaling.attn_factor"), rope.attention_factor);
  const double mix = keys.file().number(keys.key("rope.scaling.yarn_ext_factor"), 1);
  KVANT_CHECK(rope.scaling != Scaling::yarn || mix == 1 || mix < 0, ErrorCode::unsupported,
              "{}: {} is {}, supported is 1", keys.file().path(), keys.key("rope.scaling.yarn_ext_factor"), mix);
}

/// Llama 3's frequency factors: one divisor for each pair, in a tensor of the file.
void read_frequency_factors(const gguf::File& file, kernels::RopeConfig& rope) {
  const gguf::Tensor* tensor = file.find_tensor("rope_freqs.weight");
  if (tensor == nullptr) return;
  KVANT_CHECK(tensor->type == gguf::TensorType::f32, ErrorCode::format, "{}: tensor {}: type {}, expected F32",
              file.path(), tensor->name, gguf::info(tensor->type).name);
  KVANT_CHECK(tensor->values() == rope.dims / 2, ErrorCode::format, "{}: tensor {}: shape {}, expected [{}]",
              file.path(), tensor->name, tensor->shape_text(), rope.dims / 2);
  rope.frequency_factors.resize(tensor->values());
  std::memcpy(rope.frequency_factors.data(), tensor->data.data(), tensor->values() * sizeof(float));
  for (const float factor : rope.frequency_factors) {
    KVANT_CHECK(std::isfinite(factor) && factor > 0, ErrorCode::format,
                "{}: tensor {}: value {}, expected a number above 0", file.path(), tensor->name, factor);
  }
}

kernels::RopeConfig read_rope(const Keys& keys, std::size_t head_dim, std::size_t context) {
  kernels::RopeConfig rope;
  rope.dims = keys.count("rope.dimension_count", 2, head_dim, head_dim);
  KVANT_CHECK(rope.dims % 2 == 0, ErrorCode::format, "{}: {} is {}, expected an even number", keys.file().path(),
              keys.key("rope.dimension_count"), rope.dims);
  rope.base = keys.positive("rope.freq_base", 10000);
  KVANT_CHECK(rope.base > 1, ErrorCode::format, "{}: {} is {}, expected a number above 1", keys.file().path(),
              keys.key("rope.freq_base"), rope.base);
  read_rope_scaling(keys, context, rope);
  read_frequency_factors(keys.file(), rope);
  return rope;
}

}  // namespace

std::string_view name(Architecture architecture) noexcept {
  for (const auto& info : kArchitectures) {
    if (info.architecture == architecture) return info.name;
  }
  return "";
}

ModelConfig read_config(const gguf::File& file) {
  const ArchitectureInfo& info = find_architecture(file);
  const Keys keys(file, info.name);
  KVANT_CHECK(keys.count("expert_count", 0, ~std::size_t{0}, 0) == 0, ErrorCode::unsupported,
              "{}: {} is {}: mixtures of experts are not supported", file.path(), keys.key("expert_count"),
              file.integer(keys.key("expert_count")));

  ModelConfig config;
  config.architecture = info.architecture;
  config.qk_norm = info.qk_norm;
  config.interleaved_rope = info.interleaved_rope;
  config.name = file.text("general.name", "");
  config.layers = static_cast<int>(keys.count("block_count", 1, ModelConfig::kMaxLayers));
  config.embedding = keys.count("embedding_length", 1, ModelConfig::kMaxWidth);
  config.feed_forward = keys.count("feed_forward_length", 1, ModelConfig::kMaxWidth);
  config.context = keys.count("context_length", 1, ModelConfig::kMaxContext);
  config.window = keys.count("attention.sliding_window", 0, ModelConfig::kMaxContext, 0);

  const std::size_t heads = keys.count("attention.head_count", 1, ModelConfig::kMaxHeads);
  const std::size_t kv_heads = keys.count("attention.head_count_kv", 1, heads, heads);
  KVANT_CHECK(heads % kv_heads == 0, ErrorCode::format, "{}: {} is {}, which {} = {} does not divide", file.path(),
              keys.key("attention.head_count"), heads, keys.key("attention.head_count_kv"), kv_heads);
  config.heads = static_cast<int>(heads);
  config.kv_heads = static_cast<int>(kv_heads);
  config.head_dim = read_head_dim(keys, config.embedding, heads);
  config.norm_epsilon = static_cast<float>(keys.positive("attention.layer_norm_rms_epsilon"));
  if (keys.has("attention.scale")) config.score_scale = static_cast<float>(keys.positive("attention.scale"));
  config.rope = read_rope(keys, config.head_dim, config.context);
  config.vocabulary = file.tensor("token_embd.weight").rows();
  return config;
}

}  // namespace kvant::model
