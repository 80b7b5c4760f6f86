#include "codec/spec.h"

#include <array>
#include <charconv>
#include <optional>
#include <span>
#include <utility>

#include "base/checked.h"
#include "base/error.h"

namespace kvant::codec {
namespace {

using enum CacheSpec::Coding;
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
constexpr std::string_view kRotated = "rot-", kPlanned = "plan";

struct NamedCoding {
  std::string_view name;
  CacheSpec::Coding coding;
  int least, most;  ///< bits
};
constexpr std::array<NamedCoding, 2> kCodings = {{{"lm", lm, 1, 6}, {"uni", uni, 2, 8}}};

template <class T>
using Names = std::span<const std::pair<std::string_view, T>>;
constexpr std::pair<std::string_view, Anchor> kAnchors[] = {
    {"none", Anchor::none}, {"static", Anchor::fixed}, {"bias", Anchor::bias}, {"mean", Anchor::mean}};
constexpr std::pair<std::string_view, PairScale> kScales[] = {{"none", PairScale::none},
                                                              {"weights", PairScale::weights},
                                                              {"auto", PairScale::automatic},
                                                              {"plan", PairScale::plan}};
constexpr std::pair<std::string_view, ScaleFormat> kNorms[] = {{"f16", ScaleFormat::f16}, {"log8", ScaleFormat::log8}};

constexpr std::pair<std::string_view, Shape> kShapes[] = {{"none", Shape::none}, {"weights", Shape::weights}};

constexpr std::size_t kMostTokens = std::size_t{1} << 20;  ///< of sinks and recent

std::string all_types() {
  std::string list;
  for (const NamedType& t : kTypes) list += fmt::format("{} ", t.name);
  for (const NamedType& t : kTypes) {
    if (t.integer) list += fmt::format("{}{} ", kRotated, t.name);
  }
  for (const NamedCoding& c : kCodings) {
    for (int bits = c.least; bits <= c.most; ++bits) list += fmt::format("{}{} ", c.name, bits);
  }
  return list + "plan flex flex:S:H:L:JH:JL flexfix:S:H:L:JH:JL";
}

template <class T>
std::string_view name_of(Names<T> names, T value) {
  for (const auto& [name, v] : names) {
    if (v == value) return name;
  }
  return {};
}

std::optional<std::size_t> number(std::string_view text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

/// Reads the keys behind a type into a spec.
class KeyReader {
 public:
  KeyReader(std::string_view text, PageSide side, CacheSpec& spec) : text_(text), side_(side), spec_(&spec) {}

  void set(std::string_view key, std::string_view value) {
    const bool keys = side_ == PageSide::key;
    const bool flex_type = spec_->coding == flex;
    if (flex_type) {
      if (key != "perms" && key != "plan") refuse_key(key, "perms plan");
      check_text(key, value);
      (key == "perms" ? spec_->permutations : spec_->plan) = value;
      return;
    }
    if (key == "anchor") return choose(key, value, Names<Anchor>(kAnchors), spec_->anchor);
    if (key == "plan") {
      check_text(key, value);
      spec_->plan = value;
      return;
    }
    if (key == "sinks") return count(key, value, spec_->sinks);
    if (key == "recent") return count(key, value, spec_->recent);
    const bool scaled = keys && spec_->coding != CacheSpec::Coding::plan;
    if (key == "scale" && scaled) return choose(key, value, Names<PairScale>(kScales), spec_->scale);
    if (key == "group" && spec_->coded()) return group(value);
    if (key == "norm" && spec_->coded()) return choose(key, value, Names<ScaleFormat>(kNorms), spec_->norm);
    if (key == "shape" && spec_->coded()) return choose(key, value, Names<Shape>(kShapes), spec_->shape);
    refuse_key(key, fmt::format("anchor{} sinks recent plan{}", scaled ? " scale" : "",
                                spec_->coded() ? " shape group norm" : ""));
  }

  void check_whole() const {
    if (spec_->coding == CacheSpec::Coding::plan && spec_->plan.empty()) wrong("plan needs plan=FILE");
    const bool plan =
        spec_->anchor == Anchor::mean || spec_->anchor == Anchor::fixed || spec_->scale == PairScale::plan;
    if (plan && spec_->plan.empty()) {
      wrong(fmt::format("{} needs plan=FILE",
                        spec_->scale == PairScale::plan
                            ? "scale=plan"
                            : fmt::format("anchor={}", name_of(Names<Anchor>(kAnchors), spec_->anchor))));
    }
    if (spec_->coding != flex) return;
    if (!spec_->permutations.empty() && !spec_->plan.empty()) wrong("perms=FILE and plan=FILE, expected one of them");
    if ((spec_->flex.split || spec_->flex.hi_bits == 0) && spec_->permutations.empty() && spec_->plan.empty()) {
      wrong(fmt::format("{} needs perms=FILE or plan=FILE", spec_->flex.split ? "a split" : "a layout for each layer"));
    }
  }

 private:
  [[noreturn]] void wrong(std::string_view what) const {
    fail(ErrorCode::invalid_argument, "cache type '{}': {}", printable(text_), what);
  }
  [[noreturn]] void refuse_key(std::string_view key, std::string_view valid) const {
    wrong(fmt::format("unknown key '{}', expected one of {}", printable(key), valid));
  }
  void check_text(std::string_view key, std::string_view value) const {
    if (value.empty()) wrong(fmt::format("key '{}' has no value", key));
  }
  void count(std::string_view key, std::string_view value, std::size_t& out) const {
    const auto n = number(value);
    if (!n || *n > kMostTokens) wrong(fmt::format("{}={}, expected 0 to {}", key, printable(value), kMostTokens));
    out = *n;
  }
  void group(std::string_view value) const {
    const auto n = number(value);
    if (!n || (*n != 32 && *n != 64 && *n != 128 && *n != 256)) {
      wrong(fmt::format("group={}, expected 32 64 128 256", printable(value)));
    }
    spec_->group = *n;
  }
  template <class T>
  void choose(std::string_view key, std::string_view value, Names<T> names, T& out) const {
    std::string valid;
    for (const auto& [name, v] : names) {
      if (name == value) {
        out = v;
        return;
      }
      valid += fmt::format(" {}", name);
    }
    wrong(fmt::format("{}={}, expected one of{}", key, printable(value), valid));
  }

  std::string_view text_;
  PageSide side_;
  CacheSpec* spec_;
};

/// The spec of a type with its default keys, or nothing.
std::optional<CacheSpec> parse_type(std::string_view form, PageSide side) {
  const bool rotated = form.starts_with(kRotated);
  const std::string_view name = rotated ? form.substr(kRotated.size()) : form;
  for (const NamedType& t : kTypes) {
    if (t.name == name && (!rotated || t.integer)) return CacheSpec{t.type, rotated};
  }
  if (form == kPlanned) {
    CacheSpec spec;
    spec.coding = CacheSpec::Coding::plan;
    spec.anchor = Anchor::mean;
    return spec;
  }
  for (const NamedCoding& c : kCodings) {
    if (!form.starts_with(c.name)) continue;
    const auto bits = number(form.substr(c.name.size()));
    if (!bits || *bits < static_cast<std::size_t>(c.least) || *bits > static_cast<std::size_t>(c.most)) break;
    CacheSpec spec;
    spec.coding = c.coding;
    spec.bits = static_cast<int>(*bits);
    spec.anchor = Anchor::bias;
    spec.scale = side == PageSide::key ? PairScale::automatic : PairScale::none;
    spec.shape = side == PageSide::value ? Shape::weights : Shape::none;
    return spec;
  }
  return std::nullopt;
}

}  // namespace

CacheSpec parse_cache_spec(std::string_view text, PageSide side) {
  const std::string_view form = text.substr(0, text.find(','));
  std::optional<CacheSpec> spec = parse_type(form, side);
  if (!spec && (form == "flex" || form.starts_with("flex:") || form.starts_with("flexfix:"))) {
    if (side == PageSide::value)
      fail(ErrorCode::invalid_argument, "cache type '{}': flex is for keys", printable(text));
    spec = CacheSpec{};
    spec->coding = flex;
    if (form != "flex") spec->flex = parse_flex_spec(form);
  }
  if (!spec) {
    fail(ErrorCode::invalid_argument, "cache type '{}': unknown, expected one of {}", printable(text), all_types());
  }
  KeyReader reader(text, side, *spec);
  for (std::size_t at = form.size(); at < text.size();) {
    const std::size_t end = std::min(text.find(',', at + 1), text.size());
    const std::string_view setting = text.substr(at + 1, end - at - 1);
    const std::size_t equals = setting.find('=');
    reader.set(setting.substr(0, equals), equals < setting.size() ? setting.substr(equals + 1) : std::string_view());
    at = end;
  }
  reader.check_whole();
  return *spec;
}

std::string to_string(const CacheSpec& spec, PageSide side) {
  std::string text;
  if (spec.coding == flex) {
    text = spec.flex.hi_bits == 0 ? "flex" : to_string(spec.flex);
    if (!spec.permutations.empty()) text += fmt::format(",perms={}", spec.permutations);
    if (!spec.plan.empty()) text += fmt::format(",plan={}", spec.plan);
    return text;
  }
  if (spec.coding == CacheSpec::Coding::plan) text = kPlanned;
  for (const NamedCoding& c : kCodings) {
    if (c.coding == spec.coding) text = fmt::format("{}{}", c.name, spec.bits);
  }
  for (const NamedType& t : kTypes) {
    if (spec.coding == blocks && t.type == spec.type) text = fmt::format("{}{}", spec.rotated ? kRotated : "", t.name);
  }
  if (text.empty()) {
    fail(ErrorCode::unsupported, "{} is no cache type, expected one of {}", gguf::info(spec.type).name, all_types());
  }
  const CacheSpec defaults = *parse_type(text, side);
  const auto add = [&](std::string_view key, const auto& value) { text += fmt::format(",{}={}", key, value); };
  if (spec.anchor != defaults.anchor) add("anchor", name_of(Names<Anchor>(kAnchors), spec.anchor));
  if (spec.scale != defaults.scale) add("scale", name_of(Names<PairScale>(kScales), spec.scale));
  if (spec.group != 0) add("group", spec.group);
  if (spec.norm != defaults.norm) add("norm", name_of(Names<ScaleFormat>(kNorms), spec.norm));
  if (spec.shape != defaults.shape) add("shape", name_of(Names<Shape>(kShapes), spec.shape));
  if (spec.sinks != 0) add("sinks", spec.sinks);
  if (spec.recent != 0) add("recent", spec.recent);
  if (!spec.plan.empty()) add("plan", spec.plan);
  return text;
}

std::size_t vector_bytes(const CacheSpec& spec, std::size_t head_dim) {
  return spec.coding == flex ? flex_bytes(spec.flex) : gguf::row_bytes(spec.type, round_up(head_dim, gguf::kBlock));
}

}  // namespace kvant::codec
