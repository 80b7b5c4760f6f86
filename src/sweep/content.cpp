#include "sweep/content.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <type_traits>
#include <variant>
#include <vector>

#include "base/hash.h"
#include "base/mapped_file.h"

namespace kvant::sweep {
namespace {

std::string hexadecimal(std::uint64_t hash) { return fmt::format("{:016x}", hash); }

/// Collects what is hashed. Each piece goes by its length, so that no two lists of pieces look the same.
class Digest {
 public:
  void add(std::span<const std::byte> bytes) {
    put(bytes.size());
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  void add(std::string_view text) { add(std::as_bytes(std::span(text))); }
  template <class T>
  void put(const T& value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
  }
  std::string hash() const { return hexadecimal(hash_bytes(bytes_)); }

 private:
  std::vector<std::byte> bytes_;
};

void add_value(Digest& digest, const gguf::Value& value) {
  digest.put(value.type);
  std::visit(
      [&](const auto& data) {
        using T = std::decay_t<decltype(data)>;
        if constexpr (std::is_same_v<T, gguf::Array>) {
          digest.put(data.item);
          digest.put(data.count);
          digest.add(data.bytes);
        } else if constexpr (std::is_same_v<T, std::string_view>) {
          digest.add(data);
        } else {
          digest.put(data);
        }
      },
      value.data);
}

void add_samples(Digest& digest, std::span<const std::byte> data) {
  if (data.size() <= kSampledBytes) {
    digest.put(hash_bytes(data));
    return;
  }
  constexpr std::size_t kPiece = kSampledBytes / kSamples;
  const std::size_t last = data.size() - kPiece;
  for (std::size_t i = 0; i < kSamples; ++i) {
    // In two parts, so that the product stays in range for any size.
    const std::size_t at = last / (kSamples - 1) * i + last % (kSamples - 1) * i / (kSamples - 1);
    digest.put(hash_bytes(data.subspan(at, kPiece)));
  }
}

/// The type that most bytes have.
std::string weights_type(const gguf::File& file) {
  std::map<gguf::TensorType, std::size_t> bytes;
  for (const gguf::Tensor& tensor : file.tensors()) bytes[tensor.type] += tensor.data.size();
  if (bytes.empty()) return "";
  const auto most =
      std::max_element(bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return std::string(gguf::info(most->first).name);
}

/// "64 lm4, 32 uni8 log8, 32 none"
std::string parts_text(std::span<const codec::CodePart> parts) {
  std::string text;
  for (const codec::CodePart& part : parts) {
    text += fmt::format("{}{} ", text.empty() ? "" : ", ", part.dims);
    if (part.bits == 0) {
      text += "none";
      continue;
    }
    text += fmt::format("{}{}{}", part.kind == codec::QuantizerKind::lm ? "lm" : "uni", part.bits,
                        part.norm == codec::ScaleFormat::log8 ? " log8" : "");
  }
  return text;
}

void add_heads(PlanRow& row, const char* side, std::size_t layer, std::span<const codec::HeadCode> heads,
               std::size_t head_dim) {
  for (std::size_t head = 0; head < heads.size(); ++head) {
    const auto& parts = heads[head].parts;
    row.heads.push_back({side, layer, head, codec::bits_per_value(parts, head_dim), parts_text(parts)});
  }
}

}  // namespace

std::string content_hash(std::string_view bytes) { return hexadecimal(hash_bytes(std::as_bytes(std::span(bytes)))); }

std::string file_hash(const std::filesystem::path& path) { return hexadecimal(hash_bytes(MappedFile(path).bytes())); }

std::string model_hash(const gguf::File& file) {
  Digest digest;
  for (const auto& [key, value] : file.metadata()) {
    if (key.starts_with("split.")) continue;
    digest.add(key);
    add_value(digest, value);
  }
  for (const gguf::Tensor& tensor : file.tensors()) {
    digest.add(tensor.name);
    digest.put(tensor.type);
    digest.add(std::as_bytes(std::span(tensor.shape)));
    add_samples(digest, tensor.data);
  }
  return digest.hash();
}

ModelRow model_row(const engine::Engine& engine, const std::string& name, const std::string& hash) {
  const model::ModelConfig& config = engine.config();
  ModelRow row;
  row.hash = hash;
  row.file = name;
  row.name = config.name;
  row.architecture = model::name(config.architecture);
  row.weights = weights_type(engine.file());
  row.bytes = engine.file().size_bytes();
  row.layers = static_cast<std::size_t>(config.layers);
  row.q_heads = static_cast<std::size_t>(config.heads);
  row.kv_heads = static_cast<std::size_t>(config.kv_heads);
  row.head_dim = config.head_dim;
  return row;
}

PlanRow plan_row(const std::string& path, const std::string& name, const std::string& hash) {
  const codec::Plan plan = codec::read_plan(path);
  PlanRow row{hash, name, std::filesystem::file_size(path), {}};
  for (std::size_t layer = 0; layer < plan.codes.size(); ++layer) {
    add_heads(row, "k", layer, plan.codes[layer].keys, plan.model.head_dim);
    add_heads(row, "v", layer, plan.codes[layer].values, plan.model.head_dim);
  }
  return row;
}

std::vector<ChannelRow> channel_rows(const codec::Plan& plan) {
  const std::size_t n = plan.model.head_dim;
  std::vector<ChannelRow> rows;
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const codec::LayerStatistics& statistics = plan.layers[layer];
    for (std::size_t head = 0; head < plan.model.kv_heads; ++head) {
      for (std::size_t i = 0; i < n; ++i) {
        const auto variance =
            static_cast<double>(statistics.k_moment[head * codec::packed_size(n) + codec::packed_size(i + 1) - 1]);
        rows.push_back(
            {layer, head, i, static_cast<double>(statistics.k_mean[head * n + i]), std::sqrt(std::max(variance, 0.0))});
      }
    }
  }
  return rows;
}

}  // namespace kvant::sweep
