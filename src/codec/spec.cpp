#include "codec/spec.h"

#include <array>
#include <span>

#include "base/checked.h"
#include "base/error.h"

namespace kvant::codec {
namespace {

using gguf::TensorType;

struct NamedType {
  std::string_view name;
  TensorType type;
  bool integer;  ///< only these have a rotated form
};

constexpr std::array<NamedType, 8> kTypes = {{{"f32", TensorType::f32, false},
                                              {"f16", TensorType::f16, false},
                                              {"bf16", TensorType::bf16, false},
                                              {"q8_0", TensorType::q8_0, true},
                                              {"q5_1", TensorType::q5_1, true},
                                              {"q5_0", TensorType::q5_0, true},
                                              {"q4_1", TensorType::q4_1, true},
                                              {"q4_0", TensorType::q4_0, true}}};
constexpr std::string_view kRotated = "rot-";

std::string all_forms() {
  std::string list;
  for (const NamedType& t : kTypes) list += fmt::format("{} ", t.name);
  for (const NamedType& t : kTypes) {
    if (t.integer) list += fmt::format("{}{} ", kRotated, t.name);
  }
  list.pop_back();
  return list;
}

}  // namespace

CacheSpec parse_cache_spec(std::string_view text) {
  const std::string_view form = text.substr(0, text.find(','));
  const bool rotated = form.starts_with(kRotated);
  const std::string_view name = rotated ? form.substr(kRotated.size()) : form;
  for (const NamedType& t : kTypes) {
    if (t.name != name || (rotated && !t.integer)) continue;
    if (form.size() != text.size()) {
      const std::string_view setting = text.substr(form.size() + 1);
      fail(ErrorCode::invalid_argument, "cache type '{}': unknown key '{}' ({} takes none)", printable(text),
           printable(setting.substr(0, setting.find_first_of("=,"))), form);
    }
    return {t.type, rotated};
  }
  fail(ErrorCode::invalid_argument, "cache type '{}': unknown, expected one of {}", printable(text), all_forms());
}

std::string to_string(const CacheSpec& spec) {
  for (const NamedType& t : kTypes) {
    if (t.type == spec.type) return fmt::format("{}{}", spec.rotated ? kRotated : "", t.name);
  }
  fail(ErrorCode::unsupported, "{} is no cache type, expected one of {}", gguf::info(spec.type).name, all_forms());
}

std::size_t vector_bytes(const CacheSpec& spec, std::size_t head_dim) {
  return gguf::row_bytes(spec.type, round_up(head_dim, gguf::kBlock));
}

}  // namespace kvant::codec
