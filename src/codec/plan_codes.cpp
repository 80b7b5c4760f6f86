#include "codec/plan_codes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "codec/spec.h"
#include "gguf/types.h"

namespace kvant::codec {
namespace {

constexpr std::size_t kPartFields = 4;
constexpr std::string_view kLayouts = "kvant.plan.layouts";

struct SideFields {
  PageSide side;
  std::string_view codes_key, type_key;  ///< of metadata
  std::string_view tensors;              ///< start of the tensors' names
  std::vector<HeadCode> LayerCodes::*codes;
  std::string Plan::*type;
};
constexpr std::array kSides = {
    SideFields{PageSide::key, "kvant.plan.codes.keys", "kvant.plan.k_type", "key", &LayerCodes::keys, &Plan::k_type},
    SideFields{PageSide::value, "kvant.plan.codes.values", "kvant.plan.v_type", "value", &LayerCodes::values,
               &Plan::v_type},
};

/// The matrices of a head as the file names them.
struct Matrix {
  std::string_view name;
  std::vector<Bf16> HeadCode::*member;
};
constexpr std::array kMatrices = {Matrix{"transform", &HeadCode::transform}, Matrix{"inverse", &HeadCode::inverse}};

std::string tensor_name(std::size_t layer, const SideFields& side, std::string_view what) {
  return fmt::format("blk.{}.{}_{}", layer, side.tensors, what);
}

/// What starts the lines that complain of a head.
std::string head_name(const std::string& file, std::size_t layer, const SideFields& side, std::size_t head) {
  return fmt::format("{}: tensors {}: head {}", file, tensor_name(layer, side, "*"), head);
}

/// A type that a plan names stands for itself: it refers to no other file.
void check_type(const Plan& plan, const SideFields& side, const std::string& name, ErrorCode code) {
  const std::string& text = plan.*side.type;
  std::string problem;
  try {
    const CacheSpec spec = parse_cache_spec(text, side.side);
    if (!spec.plan.empty() || !spec.permutations.empty()) problem = "it names another file";
  } catch (const Error& e) {
    problem = e.what();
  }
  if (!problem.empty()) fail(code, "{}: metadata {}: '{}': {}", name, side.type_key, printable(text), problem);
}

const gguf::Tensor& tensor_of(const gguf::File& file, const std::string& tensor_name, gguf::TensorType type,
                              const std::vector<std::size_t>& shape) {
  const gguf::Tensor& tensor = file.tensor(tensor_name);
  KVANT_CHECK(tensor.type == type, ErrorCode::format, "{}: tensor {}: type {}, expected {}", file.path(), tensor.name,
              gguf::info(tensor.type).name, gguf::info(type).name);
  KVANT_CHECK(tensor.shape == shape, ErrorCode::format, "{}: tensor {}: shape {}, expected [{}]", file.path(),
              tensor.name, tensor.shape_text(), fmt::join(shape, ","));
  return tensor;
}

std::vector<std::size_t> matrix_shape(const PlanIdentity& model) {
  return {model.head_dim, coded_dims(model.head_dim), model.kv_heads};
}

std::vector<std::size_t> parts_shape(const PlanIdentity& model) { return {kPartFields, kMostParts, model.kv_heads}; }

using PartFields = std::array<std::int32_t, kPartFields * kMostParts>;

std::vector<CodePart> parts_of(const PartFields& fields, const std::string& name) {
  const auto check = [&](std::size_t part, std::string_view what, std::int32_t value, std::int32_t most) {
    KVANT_CHECK(value >= 0 && value <= most, ErrorCode::format, "{}: part {}: {} {}, expected 0 to {}", name, part,
                what, value, most);
  };
  std::vector<CodePart> parts;
  for (std::size_t i = 0; i < kMostParts; ++i) {
    const std::int32_t* field = &fields[i * kPartFields];
    if (std::all_of(field, field + kPartFields, [](std::int32_t x) { return x == 0; })) continue;
    KVANT_CHECK(parts.size() == i, ErrorCode::format, "{}: part {} follows zeros", name, i);
    check(i, "dims", field[0], 1024);
    check(i, "kind", field[1], 1);
    check(i, "bits", field[2], 8);
    check(i, "norm", field[3], 1);
    parts.push_back({static_cast<std::size_t>(field[0]), field[1] == 0 ? QuantizerKind::lm : QuantizerKind::uni,
                     field[2], field[3] == 0 ? ScaleFormat::f16 : ScaleFormat::log8});
  }
  return parts;
}

PartFields fields_of(std::span<const CodePart> parts) {
  PartFields fields{};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    fields[i * kPartFields] = static_cast<std::int32_t>(parts[i].dims);
    fields[i * kPartFields + 1] = parts[i].kind == QuantizerKind::lm ? 0 : 1;
    fields[i * kPartFields + 2] = parts[i].bits;
    fields[i * kPartFields + 3] = parts[i].norm == ScaleFormat::f16 ? 0 : 1;
  }
  return fields;
}

std::vector<HeadCode> read_heads(const gguf::File& file, const PlanIdentity& model, std::size_t layer,
                                 const SideFields& side) {
  std::vector<HeadCode> heads(model.kv_heads);
  for (const Matrix& matrix : kMatrices) {
    const gguf::Tensor& tensor =
        tensor_of(file, tensor_name(layer, side, matrix.name), gguf::TensorType::bf16, matrix_shape(model));
    const std::size_t values = coded_dims(model.head_dim) * model.head_dim;
    for (std::size_t head = 0; head < heads.size(); ++head) {
      std::vector<Bf16>& out = heads[head].*matrix.member;
      out.resize(values);
      std::memcpy(out.data(), tensor.data.data() + head * values * sizeof(Bf16), values * sizeof(Bf16));
    }
  }
  const gguf::Tensor& parts =
      tensor_of(file, tensor_name(layer, side, "parts"), gguf::TensorType::i32, parts_shape(model));
  for (std::size_t head = 0; head < heads.size(); ++head) {
    PartFields fields{};
    std::memcpy(fields.data(), parts.data.data() + head * sizeof fields, sizeof fields);
    const std::string name = head_name(file.path(), layer, side, head);
    heads[head].parts = parts_of(fields, name);
    try {
      check_head_code(heads[head], model.head_dim, name);
    } catch (const Error& e) {
      throw Error(ErrorCode::format, e.what());
    }
  }
  return heads;
}

bool flag(const gguf::File& file, std::string_view key) {
  KVANT_CHECK(file.find(key) != nullptr, ErrorCode::format, "{}: metadata {}: missing, expected boolean", file.path(),
              key);
  return file.boolean(key, false);
}

/// Whether a side has codes: in all layers or none.
bool has_codes(const Plan& plan, const SideFields& side, const std::string& name) {
  const auto heads = [&](std::size_t layer) { return (plan.codes[layer].*side.codes).size(); };
  if (plan.codes.empty()) return false;
  const std::size_t expected = heads(0) == 0 ? 0 : plan.model.kv_heads;
  for (std::size_t layer = 0; layer < plan.codes.size(); ++layer) {
    KVANT_CHECK(heads(layer) == expected, ErrorCode::invalid_argument, "{}: tensors {}: {} heads, expected {}", name,
                tensor_name(layer, side, "*"), heads(layer), expected);
  }
  return expected > 0;
}

/// `heads` must live until the file is written.
void add_heads(const std::vector<HeadCode>& heads, const PlanIdentity& model, std::size_t layer, const SideFields& side,
               gguf::Writer& writer) {
  for (const Matrix& matrix : kMatrices) {
    writer.add(tensor_name(layer, side, matrix.name), gguf::TensorType::bf16, matrix_shape(model),
               [&heads, member = matrix.member](const gguf::Writer::Sink& sink) {
                 for (const HeadCode& head : heads) sink(std::as_bytes(std::span(head.*member)));
               });
  }
  writer.add(tensor_name(layer, side, "parts"), gguf::TensorType::i32, parts_shape(model),
             [&heads](const gguf::Writer::Sink& sink) {
               for (const HeadCode& head : heads) {
                 const PartFields fields = fields_of(head.parts);
                 sink(std::as_bytes(std::span(fields)));
               }
             });
}

/// Throws `code` where a plan's layouts are not those of its own model's keys.
void check_layouts(const Plan& plan, const std::string& name, ErrorCode code) {
  const PermutationFile& file = *plan.layouts;
  const auto check = [&](bool holds, std::string_view what) {
    if (!holds) fail(code, "{}: tensor {}: {}", name, kLayouts, what);
  };
  check(plan.codes.empty() || plan.codes.front().keys.empty(), "layouts beside codes of keys, expected one of them");
  check(!file.layouts.empty(), "no layouts of layers");
  check(file.layers == plan.model.layers && file.layer_map.size() == file.layers, "layers of another model");
  for (std::size_t layer = 0; layer < file.layers; ++layer) {
    check(file.layer_map[layer] == static_cast<std::int32_t>(layer), "layers out of order");
  }
  check(file.kv_heads == plan.model.kv_heads && file.head_dim == plan.model.head_dim, "heads of another model");
}

std::optional<PermutationFile> read_layouts(const gguf::File& file) {
  const gguf::Tensor* tensor = file.find_tensor(kLayouts);
  if (tensor == nullptr) return std::nullopt;
  KVANT_CHECK(tensor->type == gguf::TensorType::i8, ErrorCode::format, "{}: tensor {}: type {}, expected I8",
              file.path(), kLayouts, gguf::info(tensor->type).name);
  return parse_permutation_file(tensor->data, fmt::format("{}: tensor {}", file.path(), kLayouts));
}

}  // namespace

void read_codes(const gguf::File& file, Plan& plan) {
  for (const SideFields& side : kSides) {
    plan.*side.type = file.text(side.type_key);
    check_type(plan, side, file.path(), ErrorCode::format);
    if (!flag(file, side.codes_key)) continue;
    plan.codes.resize(plan.model.layers);
    for (std::size_t layer = 0; layer < plan.codes.size(); ++layer) {
      plan.codes[layer].*side.codes = read_heads(file, plan.model, layer, side);
    }
  }
  plan.layouts = read_layouts(file);
  if (plan.layouts) check_layouts(plan, file.path(), ErrorCode::format);
}

void add_codes(const Plan& plan, const std::string& name, gguf::Writer& writer) {
  KVANT_CHECK(plan.codes.empty() || plan.codes.size() == plan.model.layers, ErrorCode::invalid_argument,
              "{}: codes of {} layers, expected {} or none", name, plan.codes.size(), plan.model.layers);
  bool any = false;
  for (const SideFields& side : kSides) {
    check_type(plan, side, name, ErrorCode::invalid_argument);
    writer.set(side.type_key, plan.*side.type);
    const bool coded = has_codes(plan, side, name);
    writer.set(side.codes_key, coded);
    any = any || coded;
    for (std::size_t layer = 0; coded && layer < plan.codes.size(); ++layer) {
      const std::vector<HeadCode>& heads = plan.codes[layer].*side.codes;
      for (std::size_t head = 0; head < heads.size(); ++head) {
        check_head_code(heads[head], plan.model.head_dim, head_name(name, layer, side, head));
      }
      add_heads(heads, plan.model, layer, side, writer);
    }
  }
  KVANT_CHECK(any || plan.codes.empty(), ErrorCode::invalid_argument, "{}: codes of {} layers without heads", name,
              plan.codes.size());
  if (!plan.layouts) return;
  check_layouts(plan, name, ErrorCode::invalid_argument);
  const std::vector<std::byte> bytes = serialize_permutation_file(*plan.layouts, fmt::format("{}: {}", name, kLayouts));
  writer.add(std::string(kLayouts), gguf::TensorType::i8, {bytes.size()},
             [bytes](const gguf::Writer::Sink& sink) { sink(bytes); });
}

}  // namespace kvant::codec
