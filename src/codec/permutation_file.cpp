#include "codec/permutation_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "base/error.h"
#include "base/file_io.h"
#include "base/mapped_file.h"
#include "gguf/cursor.h"

namespace kvant::codec {
namespace {

using gguf::Cursor;
using gguf::fail_at;
using gguf::Place;

constexpr std::uint32_t kMagic = 0x54515045, kTypesMagic = 0x54514c54, kLayoutsMagic = 0x43465154, kVersion = 1;
constexpr std::size_t kMaxHeadDim = 256;  // channels are bytes
constexpr std::size_t kHeaderBytes = 28;

std::size_t read_size(Cursor& cursor, const char* field) { return cursor.read<std::uint32_t>({"header", field}); }

/// The start of an optional section: its magic and its count, which must be that of the layers.
void read_section_head(Cursor& cursor, const Place& place, std::uint32_t magic, std::size_t layers) {
  const auto found = cursor.read<std::uint32_t>(place);
  if (found != magic) {
    fail_at(ErrorCode::format, cursor.file(), place, "magic {:#010x}, expected {:#010x}", found, magic);
  }
  const auto count = cursor.read<std::uint32_t>(place);
  if (count != layers) {
    fail_at(ErrorCode::format, cursor.file(), place, "{} entries, but the file has {} layers", count, layers);
  }
}

/// A flag or width of a layout record.
int read_small(Cursor& cursor, const Place& place, int most) {
  const int value = cursor.read<std::uint8_t>(place);
  if (value > most) {
    fail_at(ErrorCode::format, cursor.file(), place, "{}, expected 0 to {}", value, most);
  }
  return value;
}

std::optional<FlexSpec> read_layout(Cursor& cursor) {
  FlexSpec spec;
  spec.split = read_small(cursor, {"layout", "split"}, 1) == 1;
  spec.hi_bits = read_small(cursor, {"layout", "high bits"}, 10);
  spec.lo_bits = read_small(cursor, {"layout", "low bits"}, 8);
  const int residual_bits = read_small(cursor, {"layout", "residual bits"}, 127);
  if (residual_bits != 0) {
    fail_at(ErrorCode::unsupported, cursor.file(), {"layout", "residual bits"}, "{}, expected 0", residual_bits);
  }
  spec.hi_signs = read_small(cursor, {"layout", "high signs"}, 1) == 1;
  spec.lo_signs = read_small(cursor, {"layout", "low signs"}, 1) == 1;
  const int bytes = cursor.read<std::int16_t>({"layout", "block bytes"});
  const bool f16 = spec.hi_bits == 0;
  const int expected = f16 ? 0 : static_cast<int>(flex_bytes(spec));
  if (bytes != expected) {
    fail_at(ErrorCode::format, cursor.file(), {"layout", "block bytes"}, "{}, expected {}", bytes, expected);
  }
  if (!f16) return spec;
  if (spec != FlexSpec{}) {
    fail_at(ErrorCode::format, cursor.file(), {"layout", "high bits"}, "0, but other fields are not");
  }
  return std::nullopt;
}

void check_layer_map(const PermutationFile& file, const std::string& name) {
  std::int32_t next = 0;
  for (std::size_t i = 0; i < file.layer_map.size(); ++i) {
    const std::int32_t layer = file.layer_map[i];
    if (layer != -1 && layer != next) {
      fail_at(ErrorCode::format, name, {"layer map", {}}, "layer {} of the model maps to {}, expected {} or -1", i,
              layer, next);
    }
    next += layer == -1 ? 0 : 1;
  }
  if (static_cast<std::size_t>(next) != file.layers) {
    fail_at(ErrorCode::format, name, {"layer map", {}}, "maps {} layers, but the file has {}", next, file.layers);
  }
}

void check_permutations(const PermutationFile& file, const std::string& name) {
  for (std::size_t row = 0; row < file.layers * file.kv_heads; ++row) {
    std::array<bool, kMaxHeadDim> seen{};
    for (const std::uint8_t channel : file.permutation(row / file.kv_heads, row % file.kv_heads)) {
      if (channel >= file.head_dim || seen[channel]) {
        fail_at(ErrorCode::format, name, {"permutations", {}}, "layer {}, head {}: channel {} is {}",
                row / file.kv_heads, row % file.kv_heads, channel,
                channel < file.head_dim ? "there twice" : "out of range");
      }
      seen[channel] = true;
    }
  }
}

void check_types(const PermutationFile& file, const std::string& name) {
  for (std::size_t i = 0; i < file.types.size(); ++i) {
    const auto [type, percent] = file.types[i];
    if (type < 0 || type > PermutationFile::kMostType) {
      fail_at(ErrorCode::format, name, {"types", {}}, "layer {}: type {}, expected 0 to {}", i, type,
              PermutationFile::kMostType);
    }
    if (!(percent >= 0 && percent <= 100.01F)) {  // 100 and its rounding
      fail_at(ErrorCode::format, name, {"types", {}}, "layer {}: {} percent of the variance", i, percent);
    }
    const bool has_layout = i < file.layouts.size() && file.layouts[i].has_value();
    if ((type == PermutationFile::kTypeFlex) != has_layout) {
      fail_at(ErrorCode::format, name, {"types", {}}, "layer {}: type {} {} a layout", i, type,
              has_layout ? "with" : "without");
    }
    if (!has_layout && !file.layouts.empty() && type != PermutationFile::kTypeF16) {
      fail_at(ErrorCode::format, name, {"types", {}}, "layer {}: type {} where the layout says f16", i, type);
    }
  }
}

void check_layouts(const PermutationFile& file, const std::string& name) {
  if (file.layouts.empty()) return;
  const Place place{"layouts", {}};
  if (file.types.empty()) fail_at(ErrorCode::format, name, place, "there is no section of types");
  if (file.head_dim != kFlexDims) {
    fail_at(ErrorCode::format, name, place, "head_dim {}, expected {}", file.head_dim, kFlexDims);
  }
  for (const std::optional<FlexSpec>& layout : file.layouts) {
    if (!layout) continue;
    try {
      check(*layout);
    } catch (const Error& e) {
      fail_at(ErrorCode::format, name, place, "{}", e.what());
    }
    if (layout->least_squares_step) {
      fail_at(ErrorCode::format, name, place, "{} has no form in this file", to_string(*layout));
    }
  }
}

void check_sizes(const PermutationFile& file, const std::string& name) {
  const Place place{"header", {}};
  if (file.layers == 0 || file.layers > file.layer_map.size()) {
    fail_at(ErrorCode::format, name, place, "{} layers with keys, but the model has {}", file.layers,
            file.layer_map.size());
  }
  if (file.kv_heads == 0) fail_at(ErrorCode::format, name, place, "no KV heads");
  if (file.head_dim == 0 || file.head_dim > kMaxHeadDim) {
    fail_at(ErrorCode::format, name, place, "head_dim {}, expected 1 to {}", file.head_dim, kMaxHeadDim);
  }
  const std::size_t heads = checked_mul(file.layers, file.kv_heads, name);
  if (file.permutations.size() != checked_mul(heads, file.head_dim, name) ||
      (!file.types.empty() && file.types.size() != file.layers) ||
      (!file.layouts.empty() && file.layouts.size() != file.layers)) {
    fail_at(ErrorCode::format, name, place, "sections do not have the size of {} layers, {} KV heads, head_dim {}",
            file.layers, file.kv_heads, file.head_dim);
  }
}

void validate(const PermutationFile& file, const std::string& name) {
  check_sizes(file, name);
  check_layer_map(file, name);
  check_permutations(file, name);
  check_layouts(file, name);
  check_types(file, name);
}

void read_optional_sections(Cursor& cursor, PermutationFile& file) {
  if (cursor.remaining() == 0) return;
  const Place types{"types", {}}, layouts{"layouts", {}};
  read_section_head(cursor, types, kTypesMagic, file.layers);
  file.types.resize(file.layers);
  for (auto& entry : file.types) entry.type = cursor.read<std::int32_t>(types);
  for (auto& entry : file.types) entry.outlier_percent = cursor.read<float>(types);
  if (cursor.remaining() == 0) return;
  read_section_head(cursor, layouts, kLayoutsMagic, file.layers);
  for (std::size_t i = 0; i < file.layers; ++i) file.layouts.push_back(read_layout(cursor));
}

class Output {
 public:
  template <class T>
  void put(T value) {
    const auto raw = std::bit_cast<std::array<std::byte, sizeof(T)>>(value);
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  }
  void put_size(std::size_t value) { put(static_cast<std::uint32_t>(value)); }

  std::vector<std::byte> bytes;
};

}  // namespace

PermutationFile parse_permutation_file(std::span<const std::byte> bytes, const std::string& name) {
  Cursor cursor(bytes, name);
  const auto magic = cursor.read<std::uint32_t>({"header", "magic"});
  if (magic != kMagic) {
    fail_at(ErrorCode::format, name, {"header", "magic"}, "{:#010x}, expected {:#010x}: not a permutation file", magic,
            kMagic);
  }
  const auto version = cursor.read<std::uint32_t>({"header", "version"});
  if (version != kVersion) {
    fail_at(ErrorCode::unsupported, name, {"header", "version"}, "{}, expected {}", version, kVersion);
  }
  PermutationFile file;
  file.layers = read_size(cursor, "layers");
  file.kv_heads = read_size(cursor, "kv_heads");
  file.head_dim = read_size(cursor, "head_dim");
  const std::size_t pre_rope = read_size(cursor, "pre_rope");
  if (pre_rope > 1) fail_at(ErrorCode::format, name, {"header", "pre_rope"}, "{}, expected 0 or 1", pre_rope);
  file.pre_rope = pre_rope == 1;
  const std::size_t model_layers = read_size(cursor, "model layers");
  const auto map = cursor.take(checked_mul(model_layers, sizeof(std::int32_t), name), {"layer map", {}});
  file.layer_map.resize(model_layers);
  if (!map.empty()) std::memcpy(file.layer_map.data(), map.data(), map.size());
  const std::size_t heads = checked_mul(file.layers, file.kv_heads, name);
  for (const std::byte channel : cursor.take(checked_mul(heads, file.head_dim, name), {"permutations", {}})) {
    file.permutations.push_back(std::to_integer<std::uint8_t>(channel));
  }
  check_sizes(file, name);
  read_optional_sections(cursor, file);
  if (cursor.remaining() != 0) {
    fail_at(ErrorCode::format, name, {"end", {}}, "{} bytes too many", cursor.remaining());
  }
  validate(file, name);
  return file;
}

std::vector<std::byte> serialize_permutation_file(const PermutationFile& file, const std::string& name) {
  validate(file, name);
  Output out;
  out.bytes.reserve(kHeaderBytes + 4 * file.layer_map.size() + file.permutations.size() + 16 + 16 * file.layers);
  out.put(kMagic);
  out.put(kVersion);
  for (const std::size_t size : {file.layers, file.kv_heads, file.head_dim}) out.put_size(size);
  out.put_size(file.pre_rope ? 1 : 0);
  out.put_size(file.layer_map.size());
  for (const std::int32_t layer : file.layer_map) out.put(layer);
  for (const std::uint8_t channel : file.permutations) out.put(channel);
  if (file.types.empty()) return out.bytes;
  out.put(kTypesMagic);
  out.put_size(file.layers);
  for (const auto& entry : file.types) out.put(entry.type);
  for (const auto& entry : file.types) out.put(entry.outlier_percent);
  if (file.layouts.empty()) return out.bytes;
  out.put(kLayoutsMagic);
  out.put_size(file.layers);
  for (const std::optional<FlexSpec>& layout : file.layouts) {
    const FlexSpec spec = layout.value_or(FlexSpec{});
    for (const int field : {static_cast<int>(spec.split), spec.hi_bits, spec.lo_bits, 0,
                            static_cast<int>(spec.hi_signs), static_cast<int>(spec.lo_signs)}) {
      out.put(static_cast<std::int8_t>(field));
    }
    out.put(static_cast<std::int16_t>(layout ? flex_bytes(spec) : 0));
  }
  return out.bytes;
}

PermutationFile read_permutation_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  return parse_permutation_file(file.bytes(), path.string());
}

void write_permutation_file(const std::filesystem::path& path, const PermutationFile& file) {
  const std::vector<std::byte> bytes = serialize_permutation_file(file, path.string());
  AtomicFile out(path);
  out.write(bytes);
  out.commit();
}

void check_fits_model(const PermutationFile& file, const std::string& name, std::size_t model_layers,
                      std::size_t kv_heads, std::size_t head_dim) {
  const auto same = [&](const char* field, std::size_t found, std::size_t expected) {
    KVANT_CHECK(found == expected, ErrorCode::invalid_argument, "{}: {} {}, but the model has {}", name, field, found,
                expected);
  };
  same("model layers", file.layer_map.size(), model_layers);
  same("kv_heads", file.kv_heads, kv_heads);
  same("head_dim", file.head_dim, head_dim);
}

}  // namespace kvant::codec
