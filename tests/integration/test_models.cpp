#include "integration/test_models.h"

#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <system_error>
#include <utility>

#include "base/random.h"

namespace kvant::integration {

std::filesystem::path own_model(const std::string& name) {
  return std::filesystem::path(KVANT_SOURCE_DIR) / "models" / name;
}

std::filesystem::path data_file(const std::string& name) {
  const char* folder = std::getenv("KVANT_DATA");
  if (folder != nullptr && *folder != '\0') return std::filesystem::path(folder) / name;
  return std::filesystem::path(KVANT_SOURCE_DIR) / "../shared/data" / name;
}

LoadedModel::LoadedModel(gguf::File file_, const Options& options)
    : file(std::move(file_)),
      config(model::read_config(file)),
      weights(model::load_weights(file, config)),
      isa(options.isa),
      pool(options.threads),
      transformer(config, weights, pool, isa, options.precision) {}

cache::KvCache LoadedModel::make_cache(std::size_t capacity, codec::CacheSpec k, codec::CacheSpec v, int sequences) {
  cache::CacheConfig sizes = transformer.cache_config(capacity, sequences);
  sizes.k = k;
  sizes.v = v;
  return {sizes, pool, isa};
}

cache::KvCache LoadedModel::make_cache(std::size_t capacity, int sequences) {
  const codec::CacheSpec f32{gguf::TensorType::f32, false};
  return make_cache(capacity, f32, f32, sequences);
}

std::vector<float> LoadedModel::forward(cache::KvCache& cache, std::span<const std::int32_t> tokens,
                                        std::size_t wanted) {
  const auto rows = transformer.forward(cache, std::array{model::Input{0, tokens, wanted}});
  return {rows.data, rows.data + rows.rows * rows.cols};
}

std::vector<float> LoadedModel::logits(std::span<const std::int32_t> tokens) {
  cache::KvCache cache = make_cache(tokens.size());
  return forward(cache, tokens, tokens.size());
}

std::vector<std::byte> with_changes(const gguf::File& file, std::string_view without,
                                    const std::function<void(gguf::Writer&)>& more) {
  gguf::Writer writer;
  for (const auto& [key, value] : file.metadata()) {
    if (key != without) writer.set(key, value);
  }
  for (const gguf::Tensor& tensor : file.tensors()) {
    if (tensor.name != without) writer.add(std::string(tensor.name), tensor.type, tensor.shape, tensor.data);
  }
  more(writer);
  return writer.bytes();
}

TemporaryFile::TemporaryFile(const std::string& name, std::span<const std::byte> bytes)
    : path_(std::filesystem::temp_directory_path() / (std::to_string(getpid()) + "-" + name)) {
  std::ofstream(path_, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

TemporaryFile::~TemporaryFile() {
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

std::vector<std::int32_t> random_tokens(std::size_t count, std::size_t vocabulary, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int32_t> tokens(count);
  for (auto& token : tokens) token = static_cast<std::int32_t>(random.below(vocabulary));
  return tokens;
}

}  // namespace kvant::integration
