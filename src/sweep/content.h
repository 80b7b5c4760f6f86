#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "codec/plan.h"
#include "engine/engine.h"
#include "gguf/reader.h"
#include "sweep/database.h"

namespace kvant::sweep {

/// XXH3-64 as 16 hexadecimal digits, of bytes and of a whole file. Throws io, naming the file.
std::string content_hash(std::string_view bytes);
std::string file_hash(const std::filesystem::path& path);

/// What tells a model file from others, in a time that does not grow with its size: XXH3-64 of all metadata but keys of
/// split files (split.*), of all tensors' names, types and shapes, and of kSampledBytes of each tensor: the whole of
/// smaller ones, else kSamples pieces from its start to its end at equal distances.
std::string model_hash(const gguf::File& file);
inline constexpr std::size_t kSamples = 16, kSampledBytes = std::size_t{64} << 10;

/// The row of a model whose hash is known; `weights` is the type that most bytes of its tensors have.
ModelRow model_row(const engine::Engine& engine, const std::string& name, const std::string& hash);
/// The row of a plan: bits and parts of each head it has codes for. Throws as codec::read_plan.
PlanRow plan_row(const std::string& path, const std::string& name, const std::string& hash);
/// Mean and deviation of the key channels that a plan's statistics have.
std::vector<ChannelRow> channel_rows(const codec::Plan& plan);

}  // namespace kvant::sweep
