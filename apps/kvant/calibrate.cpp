#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "calib/collect.h"
#include "calib/tiers.h"
#include "model/cache_constants.h"
#include "options.h"
#include "terminal.h"

namespace kvant::app {
namespace {

struct Options {
  ModelOptions model;
  std::string text, output, tiers, permutations;
  std::size_t tokens = 8192;
  std::size_t context = 0;  ///< 0: 512, or what the model was trained for where that is less
};

double norm(std::span<const float> values) {
  double sum = 0;
  for (const float x : values) sum += static_cast<double>(x) * x;
  return std::sqrt(sum);
}

double sum(std::span<const float> values) {
  double total = 0;
  for (const float x : values) total += x;
  return total;
}

/// Factor by which scaling pairs with s_j^4 = wanted_q / wanted_k lowers the error of logits, for the energies k and q:
/// (sum q)(sum k) / ((sum q / s^2)(sum s^2 k)). Pairs without energy are left as they are.
double gain(std::span<const float> k, std::span<const float> q, std::span<const float> wanted_k,
            std::span<const float> wanted_q) {
  double queries = 0, keys = 0;
  for (std::size_t j = 0; j < k.size(); ++j) {
    const bool scaled = wanted_k[j] > 0 && wanted_q[j] > 0;
    const double square = scaled ? std::sqrt(static_cast<double>(wanted_q[j]) / wanted_k[j]) : 1;
    queries += q[j] / square;
    keys += k[j] * square;
  }
  return queries > 0 && keys > 0 ? sum(q) * sum(k) / (queries * keys) : 1;
}

/// One row for each layer and KV head.
std::string table(engine::Engine& engine, const codec::Plan& plan, bool colour) {
  const model::ModelConfig& config = engine.config();
  const auto predicted = model::cache_constants(config, engine.weights(), codec::parse_cache_spec("lm4,scale=weights"),
                                                {}, nullptr, nullptr, engine.pool());
  const std::size_t d = config.head_dim, pairs = config.rope.dims / 2;
  Table out({"layer", "head", "bias", "mean", "deviation", "gain, plan", "gain, weights"});
  for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
    const codec::LayerStatistics& s = plan.layers[layer];
    const std::vector<float> k_energy = codec::pair_energies(s.k_moment, plan.model);
    const std::vector<float> q_energy = codec::pair_energies(s.q_moment, plan.model);
    const model::Vector& bias = engine.weights().layers[layer].k_bias;
    for (std::size_t head = 0; head < plan.model.kv_heads; ++head) {
      const auto of_pairs = [&](const std::vector<float>& v) { return std::span(v).subspan(head * pairs, pairs); };
      const auto k = of_pairs(k_energy), q = of_pairs(q_energy);
      const cache::LayerConstants& weights = predicted[layer];
      out.add({fmt::format("{}", layer), fmt::format("{}", head),
               bias.empty() ? "-" : fmt::format("{:.2f}", norm(std::span(bias).subspan(head * d, d))),
               fmt::format("{:.2f}", norm(std::span(s.k_mean).subspan(head * d, d))),
               fmt::format("{:.2f}", std::sqrt(sum(k))), fmt::format("{:.2f}", gain(k, q, k, q)),
               fmt::format("{:.2f}", gain(k, q, of_pairs(weights.k_energy), of_pairs(weights.q_energy)))});
    }
  }
  return out.text(colour);
}

/// One row for each layer: its outlier concentration and its layout.
std::string tiers_table(const codec::PermutationFile& file, bool colour) {
  Table out({"layer", "outliers, %", "layout", "bits"});
  double bits = 0;
  for (std::size_t layer = 0; layer < file.layers; ++layer) {
    const auto& layout = file.layouts[layer];
    const double layer_bits =
        layout ? 8.0 * static_cast<double>(codec::flex_bytes(*layout)) / static_cast<double>(file.head_dim) : 16.0;
    bits += layer_bits / static_cast<double>(file.layers);
    out.add({fmt::format("{}", layer), fmt::format("{:.1f}", file.types[layer].outlier_percent),
             layout ? codec::to_string(*layout) : "f16", fmt::format("{:.3f}", layer_bits)});
  }
  return "\n" + out.text(colour) + fmt::format("Bits of a key value: {:.3f} over all layers.\n\n", bits);
}

void run(const Options& options) {
  std::optional<calib::Tiers> tiers;
  std::optional<AtomicFile> permutations;
  if (!options.tiers.empty()) {
    tiers = calib::parse_tiers(options.tiers);
    permutations.emplace(options.permutations);
  }
  AtomicFile file(options.output);  // opened before the work: a folder that cannot be written to is known at once
  TextOptions source;
  source.file = options.text;
  source.has_file = true;
  const std::string text = source.read();
  engine::Engine engine = options.model.open();
  const auto tokens = encode_text(engine.tokenizer(), text, false, source.source());

  calib::CollectOptions settings;
  settings.corpus = std::filesystem::path(source.source()).filename().string();
  settings.context = options.context > 0 ? options.context : std::min<std::size_t>(512, engine.config().context);
  settings.tokens = options.tokens;
  if (options.context == 0) settings.context = std::min(settings.context, settings.tokens);
  KVANT_CHECK(tokens.size() >= settings.tokens, ErrorCode::invalid_argument, "{}: {} tokens, {} are asked for (-n)",
              source.source(), tokens.size(), settings.tokens);
  Progress progress("statistics", "tokens");
  settings.progress = [&](std::size_t done, std::size_t total, std::string_view status) {
    progress.update(done, total, status);
  };
  const Stopwatch watch;
  const codec::Plan plan = calib::collect(engine, tokens, settings);
  const double seconds = watch.seconds();
  progress.clear();

  const auto bytes = codec::serialize_plan(plan);
  file.write(bytes);
  std::string summary = table(engine, plan, stdout_is_terminal());
  if (tiers && permutations) {
    const codec::PermutationFile layouts = calib::make_permutation_file(plan, *tiers);
    permutations->write(codec::serialize_permutation_file(layouts, options.permutations));
    permutations->commit();
    summary += tiers_table(layouts, stdout_is_terminal());
  }
  file.commit();
  write_stdout(summary);
  write_stdout(fmt::format(
      "Norms of each KV head's keys before RoPE: K bias, mean, standard deviation; and the factor by which scaling of\n"
      "their pairs lowers the error of the attention logits, with these statistics and with what the weights predict.\n"
      "{}: {} tokens in windows of {}, {}, {:.1f} s\n",
      options.output, plan.corpus.tokens, plan.corpus.context, format_bytes(static_cast<double>(bytes.size())),
      seconds));
}

}  // namespace

Command add_calibrate(CLI::App& app) {
  CLI::App& command =
      add_command(app, "calibrate", "Statistics of a model's keys and values, for anchors and scales of caches",
                  "Runs the first -n tokens of a text through the model and writes a plan file with the means of keys "
                  "and values\nand the energies of RoPE pairs, for anchor=mean, anchor=static and scale=plan. It does "
                  "not choose bits.\n"
                  "Example: kvant calibrate -m model.gguf -f text.txt -o plan.gguf\n"
                  "         kvant run -m model.gguf -p Hello --cache-k lm3,anchor=mean,scale=plan,plan=plan.gguf\n"
                  "         kvant calibrate -m model.gguf -f text.txt -o plan.gguf --perms perms.bin \\\n"
                  "           --tiers 'high=flex:1:9:4:1:1@70,moderate=flex:0:6:0:0:0'\n"
                  "         kvant run -m model.gguf -p Hello --cache-k flex,perms=perms.bin");
  auto options = std::make_shared<Options>();
  add_model_options(command, options->model, "reference");
  command.add_option("-f,--file", options->text, "The text's file; - is standard input")->required()->type_name("FILE");
  command.add_option("-o,--output", options->output, "The plan's file")->required()->type_name("FILE");
  command.add_option("-n,--tokens", options->tokens, "Tokens of the text to look at (default: 8192)")
      ->check(CLI::Range(std::size_t{2}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  command
      .add_option("-c,--context", options->context, "Tokens of a window (default: 512, at most the model's context)")
      ->check(CLI::Range(std::size_t{2}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  command
      .add_option("--tiers", options->tiers,
                  "Layouts by outlier concentration, for type flex: NAME=flex:S:H:L:JH:JL[@PERCENT],... with the "
                  "names extreme high moderate all")
      ->type_name("SPEC");
  command.add_option("--perms", options->permutations, "The permutation file that --tiers writes")->type_name("FILE");
  return {&command, [options] {
            if (options->tiers.empty() != options->permutations.empty()) {
              throw UsageError("calibrate: --tiers and --perms go together (kvant calibrate --help)");
            }
            run(*options);
          }};
}

}  // namespace kvant::app
