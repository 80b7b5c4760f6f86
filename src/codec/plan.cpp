#include "codec/plan.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <variant>

#include "base/error.h"
#include "codec/plan_codes.h"
#include "codec/plan_results.h"
#include "gguf/reader.h"
#include "gguf/writer.h"

namespace kvant::codec {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::string_view kVersionKey = "kvant.plan.version", kModelPrefix = "kvant.plan.model.";
constexpr std::string_view kCorpusName = "kvant.plan.corpus.name", kCorpusHash = "kvant.plan.corpus.hash",
                           kCorpusTokens = "kvant.plan.corpus.tokens", kCorpusContext = "kvant.plan.corpus.context";

/// A field of the identity as the file and errors name it. Texts have 1 to `high` bytes, counts lie in [low, high],
/// real numbers are finite and above 0, hashes are free.
struct Field {
  enum class Kind { text, count, real, hash } kind;
  std::string_view key;
  std::variant<std::string PlanIdentity::*, std::size_t PlanIdentity::*, double PlanIdentity::*> member;
  std::size_t low = 0, high = 0;
};
static_assert(std::is_same_v<std::size_t, std::uint64_t>, "counts and hashes are one member type");

constexpr std::size_t kMostContext = std::size_t{1} << 30;
constexpr std::array kFields = {
    Field{Field::Kind::text, "architecture", &PlanIdentity::architecture, 1, 64},
    Field{Field::Kind::count, "layers", &PlanIdentity::layers, 1, 1024},
    Field{Field::Kind::count, "embedding", &PlanIdentity::embedding, 1, std::size_t{1} << 20},
    Field{Field::Kind::count, "heads", &PlanIdentity::heads, 1, 1024},
    Field{Field::Kind::count, "kv_heads", &PlanIdentity::kv_heads, 1, 1024},
    Field{Field::Kind::count, "head_dim", &PlanIdentity::head_dim, 2, 512},
    Field{Field::Kind::count, "rope.dims", &PlanIdentity::rope_dims, 2, 512},
    Field{Field::Kind::real, "rope.base", &PlanIdentity::rope_base},
    Field{Field::Kind::text, "rope.scaling", &PlanIdentity::rope_scaling, 1, 64},
    Field{Field::Kind::real, "rope.factor", &PlanIdentity::rope_factor},
    Field{Field::Kind::count, "rope.original_context", &PlanIdentity::rope_original_context, 0, kMostContext},
    Field{Field::Kind::real, "rope.attention_factor", &PlanIdentity::rope_attention_factor},
    Field{Field::Kind::hash, "rope.details", &PlanIdentity::rope_details},
    Field{Field::Kind::hash, "key_biases", &PlanIdentity::key_biases},
    Field{Field::Kind::hash, "attention_shapes", &PlanIdentity::attention_shapes},
};

std::string value_text(const Field& field, const PlanIdentity& identity) {
  return std::visit(
      [&]<class T>(T PlanIdentity::*member) -> std::string {
        const T& value = identity.*member;
        if constexpr (std::is_same_v<T, std::string>) {
          return "\"" + printable(value) + "\"";
        } else if constexpr (std::is_same_v<T, std::size_t>) {
          return field.kind == Field::Kind::hash ? fmt::format("{:016x}", value) : fmt::format("{}", value);
        } else {
          return fmt::format("{}", value);
        }
      },
      field.member);
}

/// What a field must be and is not, or nothing.
std::string complaint(const Field& field, const PlanIdentity& identity) {
  switch (field.kind) {
    case Field::Kind::text: {
      const std::size_t size = (identity.*std::get<std::string PlanIdentity::*>(field.member)).size();
      if (size >= field.low && size <= field.high) return {};
      return fmt::format("{} bytes, expected {} to {}", size, field.low, field.high);
    }
    case Field::Kind::count: {
      const std::size_t value = identity.*std::get<std::size_t PlanIdentity::*>(field.member);
      if (value >= field.low && value <= field.high) return {};
      return fmt::format("{}, expected {} to {}", value, field.low, field.high);
    }
    case Field::Kind::real: {
      const double value = identity.*std::get<double PlanIdentity::*>(field.member);
      if (std::isfinite(value) && value > 0) return {};
      return fmt::format("{}, expected a number above 0", value);
    }
    case Field::Kind::hash:
      break;
  }
  return {};
}

/// A statistic of a layer: [kv_heads][head_dim], or second moments [kv_heads][packed_size(head_dim)].
struct Statistic {
  std::string_view name;
  std::vector<float> LayerStatistics::*member;
  bool moment;
};
constexpr std::array kStatistics = {
    Statistic{"k_mean", &LayerStatistics::k_mean, false},
    Statistic{"k_mean_rotated", &LayerStatistics::k_mean_rotated, false},
    Statistic{"v_mean", &LayerStatistics::v_mean, false},
    Statistic{"k_moment", &LayerStatistics::k_moment, true},
    Statistic{"q_moment", &LayerStatistics::q_moment, true},
    Statistic{"v_moment", &LayerStatistics::v_moment, true},
};

std::string tensor_name(std::size_t layer, const Statistic& statistic) {
  return fmt::format("blk.{}.{}", layer, statistic.name);
}

/// Values of each KV head.
std::size_t width(const PlanIdentity& model, const Statistic& statistic) {
  return statistic.moment ? packed_size(model.head_dim) : model.head_dim;
}

/// Where the entry (i, i) of a packed triangle is.
constexpr std::size_t diagonal(std::size_t i) { return packed_size(i + 1) - 1; }

/// Throws `code` with a line that starts with `name` where a plan could not be used.
void check_model(const PlanIdentity& model, const std::string& name, ErrorCode code) {
  for (const Field& field : kFields) {
    if (const std::string what = complaint(field, model); !what.empty()) {
      fail(code, "{}: metadata {}{}: {}", name, kModelPrefix, field.key, what);
    }
  }
  const auto check = [&](bool holds, std::string_view key, std::size_t value, std::string_view expected,
                         std::size_t other) {
    if (!holds) fail(code, "{}: metadata {}{}: {}, expected {} {}", name, kModelPrefix, key, value, expected, other);
  };
  check(model.heads % model.kv_heads == 0, "kv_heads", model.kv_heads, "a divisor of heads =", model.heads);
  check(model.head_dim % 2 == 0, "head_dim", model.head_dim, "a multiple of", 2);
  check(model.rope_dims % 2 == 0, "rope.dims", model.rope_dims, "a multiple of", 2);
  check(model.rope_dims <= model.head_dim, "rope.dims", model.rope_dims, "at most head_dim =", model.head_dim);
}

void check_values(const std::vector<float>& values, const PlanIdentity& model, const Statistic& statistic,
                  std::size_t layer, const std::string& name, ErrorCode code) {
  const auto check = [&](std::size_t i, bool holds, std::string_view more) {
    if (holds) return;
    fail(code, "{}: tensor {}: value {} is {}, expected a finite number{}", name, tensor_name(layer, statistic), i,
         values[i], more);
  };
  for (std::size_t i = 0; i < values.size(); ++i) check(i, std::isfinite(values[i]), "");
  if (!statistic.moment) return;
  for (std::size_t first = 0; first < values.size(); first += packed_size(model.head_dim)) {
    for (std::size_t i = 0; i < model.head_dim; ++i) {
      check(first + diagonal(i), values[first + diagonal(i)] >= 0, " >= 0");
    }
  }
}

PlanIdentity read_model(const gguf::File& file) {
  PlanIdentity model;
  for (const Field& field : kFields) {
    const std::string key = fmt::format("{}{}", kModelPrefix, field.key);
    std::visit(
        [&]<class T>(T PlanIdentity::*member) {
          if constexpr (std::is_same_v<T, std::string>) {
            model.*member = file.text(key);
          } else if constexpr (std::is_same_v<T, std::size_t>) {
            model.*member = file.integer(key);
          } else {
            model.*member = file.number(key);
          }
        },
        field.member);
  }
  check_model(model, file.path(), ErrorCode::format);
  return model;
}

std::vector<float> read_statistic(const gguf::File& file, const PlanIdentity& model, std::size_t layer,
                                  const Statistic& statistic) {
  const gguf::Tensor& tensor = file.tensor(tensor_name(layer, statistic));
  KVANT_CHECK(tensor.type == gguf::TensorType::f32, ErrorCode::format, "{}: tensor {}: type {}, expected F32",
              file.path(), tensor.name, gguf::info(tensor.type).name);
  const std::size_t cols = width(model, statistic);
  KVANT_CHECK(tensor.shape.size() == 2 && tensor.cols() == cols && tensor.rows() == model.kv_heads, ErrorCode::format,
              "{}: tensor {}: shape {}, expected [{},{}]", file.path(), tensor.name, tensor.shape_text(), cols,
              model.kv_heads);
  std::vector<float> values(tensor.values());
  std::memcpy(values.data(), tensor.data.data(), values.size() * sizeof(float));
  check_values(values, model, statistic, layer, file.path(), ErrorCode::format);
  return values;
}

Plan plan_of(const gguf::File& file) {
  const std::uint64_t version = file.integer(kVersionKey);
  KVANT_CHECK(version == kVersion, ErrorCode::unsupported, "{}: metadata {}: {}, supported is {}", file.path(),
              kVersionKey, version, kVersion);
  Plan plan;
  plan.model = read_model(file);
  plan.corpus.name = file.text(kCorpusName);
  plan.corpus.hash = file.integer(kCorpusHash);
  plan.corpus.tokens = file.integer(kCorpusTokens);
  plan.corpus.context = file.integer(kCorpusContext);
  plan.layers.resize(plan.model.layers);
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    for (const Statistic& s : kStatistics) plan.layers[layer].*s.member = read_statistic(file, plan.model, layer, s);
  }
  read_results(file, plan);
  read_codes(file, plan);
  return plan;
}

/// The file of a plan, which must live until it is written.
gguf::Writer writer_of(const Plan& plan) {
  const std::string name = "plan";
  check_model(plan.model, name, ErrorCode::invalid_argument);
  KVANT_CHECK(plan.layers.size() == plan.model.layers, ErrorCode::invalid_argument,
              "{}: statistics of {} layers, expected {}", name, plan.layers.size(), plan.model.layers);
  gguf::Writer writer;
  writer.set(kVersionKey, kVersion);
  for (const Field& field : kFields) {
    const std::string key = fmt::format("{}{}", kModelPrefix, field.key);
    std::visit([&](auto member) { writer.set(key, plan.model.*member); }, field.member);
  }
  writer.set(kCorpusName, plan.corpus.name);
  writer.set(kCorpusHash, plan.corpus.hash);
  writer.set(kCorpusTokens, plan.corpus.tokens);
  writer.set(kCorpusContext, plan.corpus.context);
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    for (const Statistic& s : kStatistics) {
      const std::vector<float>& values = plan.layers[layer].*s.member;
      const std::size_t cols = width(plan.model, s);
      KVANT_CHECK(values.size() == cols * plan.model.kv_heads, ErrorCode::invalid_argument,
                  "{}: tensor {}: {} values, expected {}", name, tensor_name(layer, s), values.size(),
                  cols * plan.model.kv_heads);
      check_values(values, plan.model, s, layer, name, ErrorCode::invalid_argument);
      writer.add(tensor_name(layer, s), gguf::TensorType::f32, {cols, plan.model.kv_heads},
                 std::as_bytes(std::span(values)));
    }
  }
  add_results(plan, name, writer);
  add_codes(plan, name, writer);
  return writer;
}

}  // namespace

std::vector<float> pair_energies(std::span<const float> moment, const PlanIdentity& model) {
  const std::size_t pairs = model.rope_dims / 2;
  std::vector<float> energies(model.kv_heads * pairs);
  KVANT_ASSERT(moment.size() == model.kv_heads * packed_size(model.head_dim));
  for (std::size_t i = 0; i < energies.size(); ++i) {
    const float* head = moment.data() + i / pairs * packed_size(model.head_dim);
    const std::size_t j = i % pairs;
    energies[i] = head[diagonal(j)] + head[diagonal(j + pairs)];
  }
  return energies;
}

Plan parse_plan(std::span<const std::byte> bytes, const std::string& name) {
  return plan_of(gguf::File::parse(bytes, name));
}

std::vector<std::byte> serialize_plan(const Plan& plan) { return writer_of(plan).bytes(); }

Plan read_plan(const std::filesystem::path& path) { return plan_of(gguf::File::open(path)); }

void write_plan(const std::filesystem::path& path, const Plan& plan) { writer_of(plan).write(path); }

void check_fits(const Plan& plan, const std::string& name, const PlanIdentity& model) {
  for (const Field& field : kFields) {
    const bool same = std::visit([&](auto member) { return plan.model.*member == model.*member; }, field.member);
    KVANT_CHECK(same, ErrorCode::invalid_argument, "{}: made for a model with {} {}, this one has {}", name, field.key,
                value_text(field, plan.model), value_text(field, model));
  }
}

}  // namespace kvant::codec
