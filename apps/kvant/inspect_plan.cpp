#include "inspect_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "cache/kv_cache.h"
#include "json.h"
#include "terminal.h"

namespace kvant::app {
namespace {

using codec::PageSide;
using nlohmann::ordered_json;

/// One side of a plan.
struct Side {
  PageSide side;
  const char* name;
  std::vector<codec::HeadCode> codec::LayerCodes::*codes;
  std::string codec::Plan::*type;
};
constexpr Side kKeys{PageSide::key, "k", &codec::LayerCodes::keys, &codec::Plan::k_type};
constexpr Side kValues{PageSide::value, "v", &codec::LayerCodes::values, &codec::Plan::v_type};

bool has_codes(const codec::Plan& plan, const Side& side) {
  return !plan.codes.empty() && !(plan.codes.front().*side.codes).empty();
}

bool has_layouts(const codec::Plan& plan, const Side& side) { return side.side == PageSide::key && plan.layouts; }

/// The side's type; `planned` where it has codes.
std::string type_of(const codec::Plan& plan, const Side& side, const char* planned) {
  if (has_layouts(plan, side)) return "flex";
  return has_codes(plan, side) ? planned : printable(plan.*side.type);
}

codec::CacheSpec spec_of(const codec::Plan& plan, const Side& side) {
  codec::CacheSpec spec;
  if (has_layouts(plan, side)) {
    spec.coding = codec::CacheSpec::Coding::flex;
    return spec;
  }
  if (!has_codes(plan, side)) return codec::parse_cache_spec(plan.*side.type, side.side);
  spec.coding = codec::CacheSpec::Coding::plan;
  spec.anchor = codec::Anchor::mean;
  spec.recent = plan.recent;
  return spec;
}

/// Tokens that sizes are shown for: what the plan is made for.
std::size_t shown_context(const codec::Plan& plan) { return plan.positions > 0 ? plan.positions : 32768; }

/// What a cache of that many tokens takes.
cache::CacheUsage usage_of(const codec::Plan& plan) {
  const codec::PlanIdentity& model = plan.model;
  cache::CacheConfig config;
  config.layers = static_cast<int>(model.layers);
  config.heads = static_cast<int>(model.heads);
  config.kv_heads = static_cast<int>(model.kv_heads);
  config.head_dim = model.head_dim;
  config.rope_pairs = model.rope_dims / 2;
  kernels::RopeConfig rope;  // its scaling has no effect on sizes
  rope.dims = model.rope_dims;
  rope.base = model.rope_base;
  config.rope = kernels::rope_frequencies(rope);
  config.capacity = shown_context(plan);
  config.k = spec_of(plan, kKeys);
  config.v = spec_of(plan, kValues);
  const bool planned = !plan.codes.empty() || plan.layouts;
  for (std::size_t layer = 0; planned && layer < plan.layers.size(); ++layer) {
    const codec::LayerStatistics& s = plan.layers[layer];
    cache::LayerConstants constants;
    if (plan.layouts) constants.set_layout(*plan.layouts, layer);
    if (has_codes(plan, kKeys)) {
      constants.k_anchor = s.k_mean;
      constants.k_energy = codec::pair_energies(s.k_moment, model);
      constants.k_codes = plan.codes[layer].keys;
    }
    if (has_codes(plan, kValues)) {
      constants.v_anchor = s.v_mean;
      constants.v_codes = plan.codes[layer].values;
    }
    config.constants.push_back(std::move(constants));
  }
  return cache::planned_usage(config, active_isa());
}

double layout_bits(const std::optional<codec::FlexSpec>& layout) {
  return layout ? 8.0 * static_cast<double>(codec::flex_bytes(*layout)) / codec::kFlexDims : 16.0;
}

/// Bits of a value in each layer, over its heads; `otherwise` where the plan does not say.
std::vector<double> layer_bits(const codec::Plan& plan, const Side& side, double otherwise) {
  std::vector<double> bits(plan.model.layers, otherwise);
  if (has_layouts(plan, side)) {
    std::transform(plan.layouts->layouts.begin(), plan.layouts->layouts.end(), bits.begin(), layout_bits);
  }
  if (!has_codes(plan, side)) return bits;
  for (std::size_t layer = 0; layer < bits.size(); ++layer) {
    const auto& heads = plan.codes[layer].*side.codes;
    bits[layer] = 0;
    for (const codec::HeadCode& head : heads) {
      bits[layer] += codec::bits_per_value(head.parts, plan.model.head_dim) / static_cast<double>(heads.size());
    }
  }
  return bits;
}

const char* kind_name(codec::QuantizerKind kind) { return kind == codec::QuantizerKind::lm ? "lm" : "uni"; }

/// "64 lm4, 32 uni8 log8, 32 none"
std::string parts_text(std::span<const codec::CodePart> parts) {
  std::string text;
  for (const codec::CodePart& part : parts) {
    if (!text.empty()) text += ", ";
    text += fmt::format("{} ", part.dims);
    text += part.bits == 0 ? "none" : fmt::format("{}{}", kind_name(part.kind), part.bits);
    if (part.bits != 0 && part.norm == codec::ScaleFormat::log8) text += " log8";
  }
  return text;
}

std::string layout_text(const std::optional<codec::FlexSpec>& layout) {
  return layout ? codec::to_string(*layout) : "f16";
}

std::string digits(double value) { return fmt::format("{:.3g}", value); }

std::string sensitivity_text(double value) { return value > 0 ? digits(value) : "-"; }

double norm(std::span<const float> values) {
  double sum = 0;
  for (const float x : values) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

/// Root of the sum of the diagonal of a head's second moments.
double deviation(std::span<const float> moment, std::size_t head, std::size_t head_dim) {
  double sum = 0;
  for (std::size_t i = 0; i < head_dim; ++i) {
    sum += moment[head * codec::packed_size(head_dim) + codec::packed_size(i + 1) - 1];
  }
  return std::sqrt(sum);
}

std::string statistics_text(const codec::Plan& plan, bool colour) {
  const std::size_t d = plan.model.head_dim;
  Table table({"layer", "head", "K mean", "K deviation", "V mean", "V deviation", "Q norm"});
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const codec::LayerStatistics& s = plan.layers[layer];
    for (std::size_t head = 0; head < plan.model.kv_heads; ++head) {
      const auto cell = [](double value) { return fmt::format("{:.2f}", value); };
      table.add({fmt::format("{}", layer), fmt::format("{}", head),
                 cell(norm(std::span(s.k_mean).subspan(head * d, d))), cell(deviation(s.k_moment, head, d)),
                 cell(norm(std::span(s.v_mean).subspan(head * d, d))), cell(deviation(s.v_moment, head, d)),
                 cell(deviation(s.q_moment, head, d))});
    }
  }
  return table.text(colour) +
         "Norms of each KV head: the mean of its keys before RoPE and of its values, what they vary by, and the root "
         "mean\nsquare of its queries, summed over the query heads.\n";
}

/// Bits of a value of a side's head, and its codes.
std::pair<std::string, std::string> head_cells(const codec::Plan& plan, const Side& side, std::size_t layer,
                                               std::size_t head) {
  if (has_layouts(plan, side)) {
    const auto& layout = plan.layouts->layouts[layer];
    return {fmt::format("{:.3f}", layout_bits(layout)), layout_text(layout)};
  }
  if (!has_codes(plan, side)) return {"-", printable(plan.*side.type)};
  const auto& parts = (plan.codes[layer].*side.codes)[head].parts;
  return {fmt::format("{:.3f}", codec::bits_per_value(parts, plan.model.head_dim)), parts_text(parts)};
}

std::string chart(const codec::Plan& plan, const cache::CacheUsage& usage) {
  constexpr std::size_t kBar = 36;
  const std::vector<double> k = layer_bits(plan, kKeys, usage.k_bpv), v = layer_bits(plan, kValues, usage.v_bpv);
  const double top = std::max(*std::max_element(k.begin(), k.end()), *std::max_element(v.begin(), v.end()));
  std::string out;
  for (std::size_t layer = 0; layer < k.size(); ++layer) {
    std::string line = fmt::format("layer {:>3}  K {:>5.2f} {}  V {:>5.2f} {}", layer, k[layer],
                                   bar(k[layer], top, kBar), v[layer], bar(v[layer], top, kBar));
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::vector<std::pair<std::string, std::string>> summary(const gguf::File& file, const codec::Plan& plan,
                                                         const cache::CacheUsage& usage) {
  const codec::PlanIdentity& m = plan.model;
  std::string rope = fmt::format("base {:g}, {} channels", m.rope_base, m.rope_dims);
  if (m.rope_scaling != "none") rope += fmt::format(", {} x{:g}", printable(m.rope_scaling), m.rope_factor);
  if (m.rope_original_context > 0) rope += fmt::format(" from {}", m.rope_original_context);
  const auto bytes = static_cast<double>(usage.bytes());
  std::vector<std::pair<std::string, std::string>> rows = {
      {"file", fmt::format("{}, a plan, {}", file.path(), format_bytes(static_cast<double>(file.size_bytes())))},
      {"model", fmt::format("{}, {} layers of width {}, {} query and {} KV heads of {} channels",
                            printable(m.architecture), m.layers, m.embedding, m.heads, m.kv_heads, m.head_dim)},
      {"RoPE", rope},
      {"K biases", fmt::format("hash {:016x}; attention shapes {:016x}", m.key_biases, m.attention_shapes)},
      {"statistics", fmt::format("{}, {} tokens in windows of {}, hash {:016x}", printable(plan.corpus.name),
                                 plan.corpus.tokens, plan.corpus.context, plan.corpus.hash)}};
  if (!plan.goal.empty()) rows.push_back({"goal", printable(plan.goal)});
  if (plan.positions > 0) rows.push_back({"contexts", fmt::format("up to {} tokens", plan.positions)});
  if (plan.recent > 0) rows.push_back({"window", fmt::format("the last {} tokens also in f16", plan.recent)});
  if (plan.predicted_kld > 0) rows.push_back({"predicted", fmt::format("KLD {}", digits(plan.predicted_kld))});
  rows.push_back({"cache", fmt::format("K {}, {:.3f} bits of a value; V {}, {:.3f}", type_of(plan, kKeys, "as planned"),
                                       usage.k_bpv, type_of(plan, kValues, "as planned"), usage.v_bpv)});
  rows.push_back({"bytes", fmt::format("{:.0f} a token, {} for {} tokens, {} of constants",
                                       bytes / static_cast<double>(shown_context(plan)), format_bytes(bytes),
                                       shown_context(plan), format_bytes(static_cast<double>(usage.constant_bytes)))});
  return rows;
}

ordered_json head_json(const codec::Plan& plan, const codec::HeadCode& head) {
  ordered_json parts = ordered_json::array();
  for (const codec::CodePart& part : head.parts) {
    parts.push_back({{"dims", part.dims},
                     {"kind", kind_name(part.kind)},
                     {"bits", part.bits},
                     {"norm", part.norm == codec::ScaleFormat::f16 ? "f16" : "log8"}});
  }
  return {{"bits", codec::bits_per_value(head.parts, plan.model.head_dim)}, {"parts", parts}};
}

ordered_json layout_json(const std::optional<codec::FlexSpec>& layout) {
  return {{"bits", layout_bits(layout)}, {"layout", layout_text(layout)}};
}

ordered_json layers_json(const codec::Plan& plan, const cache::CacheUsage& usage) {
  const std::vector<double> k = layer_bits(plan, kKeys, usage.k_bpv), v = layer_bits(plan, kValues, usage.v_bpv);
  ordered_json layers = ordered_json::array();
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    ordered_json heads = ordered_json::array();
    for (std::size_t head = 0; head < plan.model.kv_heads; ++head) {
      ordered_json document = {{"head", head}};
      for (const Side& side : {kKeys, kValues}) {
        if (has_codes(plan, side)) document[side.name] = head_json(plan, (plan.codes[layer].*side.codes)[head]);
        if (has_layouts(plan, side)) document[side.name] = layout_json(plan.layouts->layouts[layer]);
      }
      heads.push_back(document);
    }
    layers.push_back({{"layer", layer},
                      {"k_bits", k[layer]},
                      {"v_bits", v[layer]},
                      {"k_sensitivity", plan.layers[layer].k_sensitivity},
                      {"v_sensitivity", plan.layers[layer].v_sensitivity},
                      {"heads", heads}});
  }
  return layers;
}

ordered_json certificates_json(const codec::Plan& plan) {
  ordered_json certificates = ordered_json::array();
  for (const codec::Certificate& c : plan.certificates) {
    certificates.push_back({{"corpus", c.corpus},
                            {"hash", fmt::format("{:016x}", c.hash)},
                            {"context", c.context},
                            {"tokens", c.tokens},
                            {"kld_mean", c.kld_mean},
                            {"kld_se", c.kld_error},
                            {"kld_p99", c.kld_p99},
                            {"top1", c.top1},
                            {"ppl_ratio", c.ppl_ratio},
                            {"ppl_ratio_lo", c.ppl_ratio_lo},
                            {"ppl_ratio_hi", c.ppl_ratio_hi}});
  }
  return certificates;
}

ordered_json model_json(const codec::PlanIdentity& m) {
  return {{"architecture", m.architecture},
          {"layers", m.layers},
          {"embedding", m.embedding},
          {"heads", m.heads},
          {"kv_heads", m.kv_heads},
          {"head_dim", m.head_dim},
          {"rope_dims", m.rope_dims},
          {"rope_base", m.rope_base},
          {"rope_scaling", m.rope_scaling},
          {"rope_factor", m.rope_factor},
          {"rope_original_context", m.rope_original_context},
          {"rope_attention_factor", m.rope_attention_factor},
          {"rope_details", fmt::format("{:016x}", m.rope_details)},
          {"key_biases", fmt::format("{:016x}", m.key_biases)},
          {"attention_shapes", fmt::format("{:016x}", m.attention_shapes)}};
}

}  // namespace

bool is_plan(const gguf::File& file) { return file.find("kvant.plan.version") != nullptr; }

std::string certificate_table(const codec::Plan& plan, bool colour) {
  Table table({"<certificate", "context", "tokens", "KLD mean", "p99", "top-1 %", "PPL ratio [95 %]"});
  for (const codec::Certificate& c : plan.certificates) {
    table.add({printable(c.corpus, 30), fmt::format("{}", c.context), fmt::format("{}", c.tokens),
               fmt::format("{} +- {:.2g}", digits(c.kld_mean), c.kld_error), digits(c.kld_p99),
               fmt::format("{:.2f}", 100 * c.top1),
               fmt::format("{:.4f} [{:.4f}, {:.4f}]", c.ppl_ratio, c.ppl_ratio_lo, c.ppl_ratio_hi)});
  }
  return table.text(colour);
}

std::string layers_text(const codec::Plan& plan, bool colour) {
  if (plan.codes.empty() && !plan.layouts) return {};
  Table table({"layer", "head", "K bits", "<parts", "V bits", "<parts", "K sens.", "V sens."});
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const codec::LayerStatistics& s = plan.layers[layer];
    for (std::size_t head = 0; head < plan.model.kv_heads; ++head) {
      std::vector<std::string> cells = {fmt::format("{}", layer), fmt::format("{}", head)};
      for (const Side& side : {kKeys, kValues}) {
        const auto [bits, text] = head_cells(plan, side, layer, head);
        cells.push_back(bits);
        cells.push_back(text);
      }
      cells.push_back(sensitivity_text(s.k_sensitivity));
      cells.push_back(sensitivity_text(s.v_sensitivity));
      table.add(cells);
    }
  }
  return table.text(colour) +
         "Bits of a value with its scales; parts: dims and their codes. Sensitivity: divergence of the model's output "
         "for\none unit of predicted error.\n\n" +
         bold("Bits of a value per layer", colour) + "\n" + chart(plan, usage_of(plan));
}

std::string plan_text(const gguf::File& file, const codec::Plan& plan, bool colour) {
  std::string out;
  for (const auto& [key, value] : summary(file, plan, usage_of(plan))) {
    out += bold(fmt::format("{:<12}", key), colour) + value + "\n";
  }
  if (!plan.certificates.empty()) out += "\n" + certificate_table(plan, colour);
  out += "\n" + (plan.codes.empty() && !plan.layouts ? statistics_text(plan, colour) : layers_text(plan, colour));
  return out;
}

std::string plan_json(const gguf::File& file, const codec::Plan& plan) {
  const cache::CacheUsage usage = usage_of(plan);
  const ordered_json document = {
      {"file", file.path()},
      {"bytes", file.size_bytes()},
      {"model", model_json(plan.model)},
      {"corpus",
       {{"name", plan.corpus.name},
        {"hash", fmt::format("{:016x}", plan.corpus.hash)},
        {"tokens", plan.corpus.tokens},
        {"context", plan.corpus.context}}},
      {"goal", plan.goal},
      {"positions", plan.positions},
      {"recent", plan.recent},
      {"trust", plan.trust},
      {"predicted_kld", plan.predicted_kld},
      {"k", type_of(plan, kKeys, "plan")},
      {"v", type_of(plan, kValues, "plan")},
      {"k_bpv", usage.k_bpv},
      {"v_bpv", usage.v_bpv},
      {"bytes_per_token", static_cast<double>(usage.bytes()) / static_cast<double>(shown_context(plan))},
      {"constant_bytes", usage.constant_bytes},
      {"certificates", certificates_json(plan)},
      {"layers", layers_json(plan, usage)}};
  return json_text(document);
}

}  // namespace kvant::app
