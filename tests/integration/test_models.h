#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/thread_pool.h"
#include "cache/kv_cache.h"
#include "codec/spec.h"
#include "gguf/reader.h"
#include "gguf/writer.h"
#include "model/transformer.h"

/// Skips the running test with a line that names the file, where `path` does not exist.
#define KVANT_REQUIRE_FILE(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "missing: " << (path)

namespace kvant::integration {

/// A file of the repository's models folder.
std::filesystem::path own_model(const std::string& name);
/// A file of the test data that is not part of the repository (environment variable KVANT_DATA).
std::filesystem::path data_file(const std::string& name);

/// A model without tokenizer or session, for tests of the forward pass.
struct LoadedModel {
  struct Options {
    Isa isa = active_isa();
    int threads = 2;
    kernels::Precision precision = kernels::Precision::reference;
  };
  LoadedModel(gguf::File file, const Options& options);

  cache::KvCache make_cache(std::size_t capacity, codec::CacheSpec k, codec::CacheSpec v, int sequences = 1);
  /// With an f32 cache.
  cache::KvCache make_cache(std::size_t capacity, int sequences = 1);
  /// Logits [wanted, vocabulary] of the last `wanted` of the tokens, appended to sequence 0 in one call.
  std::vector<float> forward(cache::KvCache& cache, std::span<const std::int32_t> tokens, std::size_t wanted);
  /// The same on a fresh f32 cache, for all tokens.
  std::vector<float> logits(std::span<const std::int32_t> tokens);

  gguf::File file;
  model::ModelConfig config;
  model::Weights weights;
  Isa isa;
  ThreadPool pool;
  model::Transformer transformer;
};

/// The bytes of a file without the tensor or key named `without` and with what `more` adds.
std::vector<std::byte> with_changes(const gguf::File& file, std::string_view without,
                                    const std::function<void(gguf::Writer&)>& more);

/// A file in the tests' temporary folder, removed at the end.
class TemporaryFile {
 public:
  TemporaryFile(const std::string& name, std::span<const std::byte> bytes);
  ~TemporaryFile();
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

/// `count` tokens below `vocabulary`.
std::vector<std::int32_t> random_tokens(std::size_t count, std::size_t vocabulary, std::uint64_t seed);

}  // namespace kvant::integration
