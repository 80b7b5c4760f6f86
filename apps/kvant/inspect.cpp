#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "cache_sizes.h"
#include "codec/plan.h"
#include "inspect_plan.h"
#include "json.h"
#include "key_bias.h"
#include "model/config.h"
#include "model/weights.h"
#include "options.h"
#include "terminal.h"
#include "tokenizer/chat_template.h"

namespace kvant::app {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string file;
  OutputOptions output;
  bool json = false, all = false;
};

/// What a file is beyond metadata and tensors.
struct Model {
  model::ModelConfig config;
  model::Weights weights;
};

double mebibytes(std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

/// The model in the file; nothing for a file without one. `problem` says why a file with weights is no model of ours.
std::optional<Model> read_model(const gguf::File& file, std::string& problem) {
  if (file.find_tensor("token_embd.weight") == nullptr) return std::nullopt;
  try {
    Model model;
    model.config = model::read_config(file);
    model.weights = model::load_weights(file, model.config);
    return model;
  } catch (const Error& e) {
    problem = e.what();
    return std::nullopt;
  }
}

// Metadata.

std::string value_text(const gguf::Value& value) {
  struct Visitor {
    std::string operator()(std::uint64_t v) const { return fmt::format("{}", v); }
    std::string operator()(std::int64_t v) const { return fmt::format("{}", v); }
    std::string operator()(double v) const { return fmt::format("{:g}", v); }
    std::string operator()(bool v) const { return v ? "true" : "false"; }
    std::string operator()(std::string_view v) const { return printable(v, 60); }
    std::string operator()(const gguf::Array& v) const { return fmt::format("array of {}", v.count); }
  };
  return std::visit(Visitor{}, value.data);
}

ordered_json value_json(const gguf::Value& value) {
  struct Visitor {
    ordered_json operator()(std::string_view v) const { return std::string(v); }
    ordered_json operator()(const gguf::Array& v) const { return {{"count", v.count}}; }
    ordered_json operator()(std::uint64_t v) const { return v; }
    ordered_json operator()(std::int64_t v) const { return v; }
    ordered_json operator()(double v) const { return v; }
    ordered_json operator()(bool v) const { return v; }
  };
  return std::visit(Visitor{}, value.data);
}

// Model.

std::string rope_text(const kernels::RopeConfig& rope, bool interleaved) {
  std::string text =
      fmt::format("base {:g}, {} channels, {} pairs", rope.base, rope.dims, interleaved ? "interleaved" : "NEOX");
  if (rope.scaling == kernels::RopeConfig::Scaling::linear) text += fmt::format(", linear x{:g}", rope.factor);
  if (rope.scaling == kernels::RopeConfig::Scaling::yarn) {
    text += fmt::format(", YaRN x{:g} from {}", rope.factor, rope.original_context);
  }
  if (!rope.frequency_factors.empty()) text += ", frequency factors";
  return text;
}

/// "chatml", or why there is none.
std::string template_text(const gguf::File& file) {
  if (file.find("tokenizer.chat_template") == nullptr) return "none";
  try {
    switch (tokenizer::ChatTemplate::from(file).kind()) {
      case tokenizer::ChatTemplate::Kind::chatml:
        return "chatml";
      case tokenizer::ChatTemplate::Kind::llama2:
        return "llama2";
      case tokenizer::ChatTemplate::Kind::llama3:
        return "llama3";
      case tokenizer::ChatTemplate::Kind::mistral:
        return "mistral";
    }
  } catch (const Error&) {
  }
  return "not recognised";
}

std::size_t vocabulary_size(const gguf::File& file) {
  const gguf::Value* tokens = file.find("tokenizer.ggml.tokens");
  const auto* array = tokens == nullptr ? nullptr : std::get_if<gguf::Array>(&tokens->data);
  return array == nullptr ? 0 : array->count;
}

/// Key, value rows of the summary.
std::vector<std::pair<std::string, std::string>> summary(const gguf::File& file, const std::optional<Model>& model) {
  std::size_t values = 0;
  for (const gguf::Tensor& t : file.tensors()) values += t.values();
  std::vector<std::pair<std::string, std::string>> rows = {
      {"file", fmt::format("{}, GGUF version {}, {}", file.path(), file.version(),
                           format_bytes(static_cast<double>(file.size_bytes())))},
      {"tensors", fmt::format("{} with {} values", file.tensors().size(), values)}};
  if (model) {
    const model::ModelConfig& c = model->config;
    rows.insert(
        rows.end(),
        {{"model", fmt::format("{} ({})", c.name.empty() ? "unnamed" : printable(c.name), name(c.architecture))},
         {"layers", fmt::format("{} of width {}, feed-forward {}", c.layers, c.embedding, c.feed_forward)},
         {"attention", fmt::format("{} query and {} KV heads of {} channels{}", c.heads, c.kv_heads, c.head_dim,
                                   c.qk_norm ? ", QK-norm" : "")},
         {"context", fmt::format("{} tokens trained", c.context)},
         {"RoPE", rope_text(c.rope, c.interleaved_rope)},
         {"head", model->weights.tied_output ? "tied to the embedding" : "untied"},
         {"decode", fmt::format("reads {} of weights a token, f16 cache {} a token",
                                format_bytes(static_cast<double>(model->weights.bytes_per_token())),
                                format_bytes(4.0 * c.layers * static_cast<double>(c.kv_size())))}});
  }
  if (vocabulary_size(file) > 0) {
    rows.push_back({"vocabulary", fmt::format("{} tokens, {} {}", vocabulary_size(file),
                                              printable(file.text("tokenizer.ggml.model", "")),
                                              printable(file.text("tokenizer.ggml.pre", "")))});
    rows.push_back({"chat", "template " + template_text(file)});
  }
  return rows;
}

std::string metadata_table(const gguf::File& file, bool colour) {
  Table table({"<metadata", "<value"});
  for (const auto& entry : file.metadata()) table.add({printable(entry.key), value_text(entry.value)});
  return table.text(colour);
}

// Tensors.

/// Tensors of all layers that differ in nothing but the layer.
struct TensorGroup {
  std::string name, shape;
  gguf::TensorType type;
  int first = -1, last = -1;
  std::size_t count = 0, bytes = 0;
};

/// The number in "blk.N.rest", or -1.
int layer_of(std::string_view tensor, std::string_view& rest) {
  if (!tensor.starts_with("blk.")) return -1;
  int layer = 0;
  std::size_t at = 4;
  for (; at < tensor.size() && at < 10 && tensor[at] >= '0' && tensor[at] <= '9'; ++at) {
    layer = layer * 10 + (tensor[at] - '0');
  }
  if (at == 4 || at >= tensor.size() || tensor[at] != '.') return -1;
  rest = tensor.substr(at);
  return layer;
}

std::vector<TensorGroup> group_tensors(std::span<const gguf::Tensor> tensors, bool all) {
  std::vector<TensorGroup> groups;
  std::map<std::string, std::size_t> index;
  for (const gguf::Tensor& t : tensors) {
    std::string_view rest = t.name;
    const int layer = all ? -1 : layer_of(t.name, rest);
    const std::string key =
        layer < 0 ? std::string(t.name) : fmt::format("*{} {} {}", rest, t.shape_text(), gguf::info(t.type).name);
    const auto [at, added] = index.try_emplace(key, groups.size());
    if (added) groups.push_back({printable(rest), t.shape_text(), t.type, layer, layer, 0, 0});
    TensorGroup& group = groups[at->second];
    group.first = std::min(group.first, layer);
    group.last = std::max(group.last, layer);
    group.count += 1;
    group.bytes += t.data.size();
  }
  for (TensorGroup& g : groups) {
    if (g.first < 0) continue;
    g.name = (g.first == g.last ? fmt::format("blk.{}", g.first) : fmt::format("blk.{}-{}", g.first, g.last)) + g.name;
  }
  return groups;
}

std::string tensor_table(const gguf::File& file, bool all, bool colour) {
  Table table({"<tensor", "<shape", "<type", "count", "MiB"});
  for (const TensorGroup& g : group_tensors(file.tensors(), all)) {
    table.add({g.name, g.shape, std::string(gguf::info(g.type).name), fmt::format("{}", g.count),
               fmt::format("{:.2f}", mebibytes(g.bytes))});
  }
  return table.text(colour);
}

std::string type_table(const gguf::File& file, bool colour) {
  struct Sum {
    std::size_t tensors = 0, values = 0, bytes = 0;
  };
  std::map<gguf::TensorType, Sum> sums;
  std::size_t bytes = 0;
  for (const gguf::Tensor& t : file.tensors()) {
    Sum& s = sums[t.type];
    s.tensors += 1;
    s.values += t.values();
    s.bytes += t.data.size();
    bytes += t.data.size();
  }
  Table table({"<type", "bits", "tensors", "values", "MiB", "share"});
  for (const auto& [type, s] : sums) {
    table.add(
        {std::string(gguf::info(type).name), fmt::format("{:.4g}", gguf::info(type).bits()),
         fmt::format("{}", s.tensors), fmt::format("{}", s.values), fmt::format("{:.2f}", mebibytes(s.bytes)),
         fmt::format("{:.1f} %", bytes == 0 ? 0 : 100.0 * static_cast<double>(s.bytes) / static_cast<double>(bytes))});
  }
  return table.text(colour);
}

std::string model_text(const gguf::File& file, const std::optional<Model>& model, const std::string& problem, bool all,
                       bool colour) {
  std::string out;
  for (const auto& [key, value] : summary(file, model)) out += bold(fmt::format("{:<12}", key), colour) + value + "\n";
  if (!problem.empty()) out += bold(fmt::format("{:<12}", "not runnable"), colour) + problem + "\n";
  if (!model || all) out += "\n" + metadata_table(file, colour);
  if (!file.tensors().empty()) {
    out += "\n" + type_table(file, colour) + "\n" + tensor_table(file, all || !model, colour);
  }
  if (model) {
    out += "\n" + key_bias_text(analyse_key_bias(model->config, model->weights), colour);
    out += "\n" + cache_sizes_text(cache_sizes(model->config, model->weights), model->config, colour);
  }
  return out;
}

ordered_json model_json(const Model& model) {
  const model::ModelConfig& c = model.config;
  return {{"name", c.name},
          {"layers", c.layers},
          {"embedding", c.embedding},
          {"feed_forward", c.feed_forward},
          {"heads", c.heads},
          {"kv_heads", c.kv_heads},
          {"head_dim", c.head_dim},
          {"vocabulary", c.vocabulary},
          {"context", c.context},
          {"qk_norm", c.qk_norm},
          {"tied_output", model.weights.tied_output},
          {"rope_base", c.rope.base},
          {"rope", rope_text(c.rope, c.interleaved_rope)},
          {"bytes_per_token", model.weights.bytes_per_token()}};
}

std::string document_text(const gguf::File& file, const std::optional<Model>& model, const std::string& problem) {
  ordered_json document = {{"file", file.path()},
                           {"version", file.version()},
                           {"bytes", file.size_bytes()},
                           {"architecture", std::string(file.text("general.architecture", ""))},
                           {"runnable", model.has_value()}};
  if (!problem.empty()) document["problem"] = problem;
  if (model) document["model"] = model_json(*model);
  if (vocabulary_size(file) > 0) document["chat_template"] = template_text(file);
  for (const auto& entry : file.metadata()) document["metadata"][std::string(entry.key)] = value_json(entry.value);
  document["tensors"] = ordered_json::array();
  for (const gguf::Tensor& t : file.tensors()) {
    document["tensors"].push_back({{"name", std::string(t.name)},
                                   {"shape", t.shape},
                                   {"type", std::string(gguf::info(t.type).name)},
                                   {"bytes", t.data.size()}});
  }
  if (model) {
    const KeyBias bias = analyse_key_bias(model->config, model->weights);
    for (const KeyBias::Head& head : bias.heads) {
      document["k_bias"].push_back({{"layer", head.layer},
                                    {"head", head.head},
                                    {"norm", head.norm},
                                    {"largest", head.largest},
                                    {"spread", head.spread}});
    }
    for (const KeyBias::Verdict& v : bias.verdicts) {
      document["cache_types"].push_back({{"type", codec::to_string(v.spec)},
                                         {"worst_layer", v.layer},
                                         {"worst_head", v.head},
                                         {"error_over_spread", v.ratio},
                                         {"unsafe", v.unsafe()}});
    }
    for (const CacheSize& size : cache_sizes(model->config, model->weights)) {
      document["cache_sizes"].push_back({{"type", size.type},
                                         {"context", model->config.context},
                                         {"k_bpv", size.usage.k_bpv},
                                         {"v_bpv", size.usage.v_bpv},
                                         {"cache_bytes", size.usage.bytes()},
                                         {"constant_bytes", size.usage.constant_bytes}});
    }
  }
  return json_text(document);
}

std::string plan_output(const Options& options, const gguf::File& file, bool colour) {
  const codec::Plan plan = codec::read_plan(options.file);
  if (options.json) return plan_json(file, plan);
  std::string out = plan_text(file, plan, colour);
  if (options.all) out += "\n" + metadata_table(file, colour) + "\n" + tensor_table(file, true, colour);
  return out;
}

std::string model_output(const Options& options, const gguf::File& file, bool colour) {
  std::string problem;
  const std::optional<Model> model = read_model(file, problem);
  return options.json ? document_text(file, model, problem) : model_text(file, model, problem, options.all, colour);
}

void run(const Options& options) {
  Output output(options.output);
  const gguf::File file = gguf::File::open(options.file);
  output.write(is_plan(file) ? plan_output(options, file, output.colour())
                             : model_output(options, file, output.colour()));
  output.finish();
}

}  // namespace

Command add_inspect(CLI::App& app) {
  CLI::App& command = add_command(app, "inspect", "Show what is in a GGUF file",
                                  "Of a model: sizes, tensors, the norm of the K bias per layer and head, and which "
                                  "plain cache types it will ruin.\nOf a plan: what it was made for, its certificate "
                                  "and the bits of each layer and head.\nExample: kvant inspect model.gguf\n"
                                  "         kvant inspect plan.gguf");
  auto options = std::make_shared<Options>();
  command.add_option("FILE", options->file, "Any GGUF file")->required();
  command.add_flag("--all", options->all, "List every tensor and all metadata");
  add_output_option(command, options->output);
  command.add_flag("--json", options->json, "Print one JSON document");
  return {&command, [options] { run(*options); }};
}

}  // namespace kvant::app
