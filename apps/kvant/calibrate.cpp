#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>

#include "base/clock.h"
#include "base/hash.h"
#include "calib/collect.h"
#include "calib/search.h"
#include "calib/stats_csv.h"
#include "calib/tiers.h"
#include "calibrate_tables.h"
#include "inspect_plan.h"
#include "model/plans.h"
#include "options.h"
#include "terminal.h"

namespace kvant::app {
namespace {

constexpr std::string_view kAutomatic = "reference, or fast for models above 512 MiB";

struct Options {
  ModelOptions model;
  std::string text, output, from, stats, tiers, permutations, validation;
  std::string memory;  ///< SIZE@CONTEXT
  calib::Goal goal;
  std::vector<std::string> without;
  std::size_t tokens = 8192;
  std::size_t context = 0;  ///< 0: 512, or what the model was trained for where that is less
  std::size_t positions = 0, measured = 0, validated = 0;

  bool wants_codes() const { return goal.bits || goal.v_bits || goal.memory || goal.max_kld; }
};

/// Larger files are measured with fewer tokens, and on the quantized weights.
constexpr std::size_t kLargeModel = std::size_t{512} << 20;

bool is_large(const std::string& file) {
  std::error_code error;
  const auto size = std::filesystem::file_size(file, error);
  return !error && size > kLargeModel;
}

/// SIZE@CONTEXT into the goal.
void read_memory(Options& options) {
  if (options.memory.empty()) return;
  const std::size_t at = options.memory.find('@');
  std::size_t context = 0;
  if (at != std::string::npos) {
    const std::string_view count = std::string_view(options.memory).substr(at + 1);
    const auto [end, status] = std::from_chars(count.data(), count.data() + count.size(), context);
    if (status != std::errc{} || end != count.data() + count.size()) context = 0;
  }
  if (context < 64 || context > std::size_t{1} << 30) {
    throw UsageError(fmt::format("calibrate: --memory {}: expected SIZE@CONTEXT with a context of 64 to {} tokens",
                                 printable(options.memory), std::size_t{1} << 30));
  }
  options.goal.memory = parse_size("calibrate: --memory", std::string_view(options.memory).substr(0, at));
  options.goal.context = context;
}

/// What of a text is used for what.
struct Texts {
  std::vector<engine::Token> tokens, other;
  std::string name, other_name;
  std::span<const engine::Token> statistics, measurement, refinement, validation;

  const std::string& validation_name() const { return other.empty() ? name : other_name; }
};

std::vector<engine::Token> read_tokens(const engine::Engine& engine, const std::string& file, std::string& name) {
  TextOptions source;
  source.file = file;
  source.has_file = true;
  const std::string text = source.read();
  name = std::filesystem::path(source.source()).filename().string();
  return encode_text(engine.tokenizer(), text, false, source.source());
}

/// The statistics' tokens, then those for the search, and at the end those that nothing was fitted to.
Texts read_texts(const Options& options, const engine::Engine& engine) {
  Texts texts;
  const bool large = is_large(options.model.model);
  const std::size_t measured = !options.wants_codes() ? 0
                               : options.measured > 0 ? options.measured
                                                      : (large ? 1024 : 8192);
  const std::size_t validated = !options.wants_codes()  ? 0
                                : options.validated > 0 ? options.validated
                                                        : (large ? 4096 : 16384);
  if (!options.validation.empty()) {
    texts.other = read_tokens(engine, options.validation, texts.other_name);
    texts.validation = std::span(texts.other).first(std::min(validated, texts.other.size()));
  }
  if (options.text.empty()) return texts;
  texts.tokens = read_tokens(engine, options.text, texts.name);
  const std::size_t statistics = options.from.empty() ? options.tokens : 0, tail = texts.other.empty() ? validated : 0;
  const std::size_t needed = std::max(statistics, measured) + measured + tail;
  KVANT_CHECK(texts.tokens.size() >= needed, ErrorCode::invalid_argument,
              "{}: {} tokens, {} are needed: {} for statistics (-n), {} for the search (--measure), {} for validation "
              "(--validate-tokens, or another text by --validate)",
              options.text, texts.tokens.size(), needed, statistics, measured, tail);
  const auto all = std::span<const engine::Token>(texts.tokens);
  texts.statistics = all.first(statistics);
  texts.measurement = all.first(measured);
  texts.refinement = all.subspan(std::max(statistics, measured), measured);
  if (texts.other.empty()) texts.validation = all.last(tail);
  return texts;
}

std::size_t window_of(const Options& options, const engine::Engine& engine) {
  if (options.context > 0) return options.context;
  return std::min({std::size_t{512}, engine.config().context, options.tokens});
}

/// What an interrupted run left beside the output.
class Partial {
 public:
  explicit Partial(const std::string& output) : path_(output + ".partial") {}

  /// The plan, if it holds the statistics of the same text for the same model.
  std::optional<codec::Plan> find(const codec::PlanIdentity& model, const codec::PlanCorpus& corpus) const {
    std::error_code error;
    if (!std::filesystem::exists(path_, error)) return std::nullopt;
    try {
      codec::Plan plan = codec::read_plan(path_);
      if (plan.model == model && plan.corpus == corpus) return plan;
    } catch (const Error&) {  // it is written whole, so this is no plan of ours: it is replaced
    }
    return std::nullopt;
  }
  void write(const codec::Plan& plan) const { codec::write_plan(path_, plan); }
  void remove() const {
    std::error_code error;
    std::filesystem::remove(path_, error);
  }

 private:
  std::filesystem::path path_;
};

codec::Plan statistics_of(const Options& options, engine::Engine& engine, const Texts& texts, const Partial& partial) {
  const std::size_t context = window_of(options, engine);
  KVANT_CHECK(options.tokens >= context, ErrorCode::invalid_argument, "-n {}: less than one window of {} tokens (-c)",
              options.tokens, context);
  const std::size_t used = options.tokens / context * context;
  const codec::PlanCorpus corpus{texts.name, hash_bytes(std::as_bytes(texts.statistics.first(used))), used, context};
  if (options.wants_codes()) {
    if (auto plan = partial.find(model::plan_identity(engine.config(), engine.weights()), corpus)) {
      write_stderr("Going on with what an interrupted run has left.\n");
      return std::move(*plan);
    }
  }
  calib::CollectOptions settings;
  settings.corpus = texts.name;
  settings.context = context;
  settings.tokens = options.tokens;
  Progress progress("statistics", "tokens");
  settings.progress = [&](std::size_t done, std::size_t total, std::string_view status) {
    progress.update(done, total, status);
  };
  codec::Plan plan = calib::collect(engine, texts.tokens, settings);
  progress.clear();
  if (options.wants_codes()) partial.write(plan);
  return plan;
}

void choose_codes(const Options& options, engine::Engine& engine, const Texts& texts, const Partial& partial,
                  codec::Plan& plan) {
  calib::SearchOptions settings;
  settings.goal = options.goal;
  settings.positions = options.positions;
  const auto without = [&](std::string_view what) {
    return std::find(options.without.begin(), options.without.end(), what) != options.without.end();
  };
  settings.without = {without("transform"), without("parts"), without("sensitivity"), without("window")};
  settings.measure_text = texts.measurement;
  settings.refine_text = texts.refinement;
  std::unique_ptr<Progress> progress;
  std::string shown;
  settings.progress = [&](std::size_t done, std::size_t total, std::string_view what) {
    if (shown != what) progress = std::make_unique<Progress>(shown = what, "tokens");
    progress->update(done, total);
  };
  if (!options.text.empty()) settings.checkpoint = [&](const codec::Plan& so_far) { partial.write(so_far); };
  calib::search(engine, plan, settings);
  if (progress) progress->clear();
}

void validate(engine::Engine& engine, const Texts& texts, codec::Plan& plan) {
  if (texts.validation.empty()) return;
  for (const std::size_t context : {plan.corpus.context, 4 * plan.corpus.context}) {
    if (context > engine.config().context || context > texts.validation.size()) continue;
    Progress progress(fmt::format("validation -c {}", context), "tokens");
    calib::certify(
        engine, plan, texts.validation, context, texts.validation_name(),
        [&](std::size_t done, std::size_t total, std::string_view status) { progress.update(done, total, status); });
    progress.clear();
  }
}

/// Makes it a plan of tiers.
void set_layouts(codec::Plan& plan, const codec::PermutationFile& layouts, const std::string& tiers) {
  plan.layouts = layouts;
  plan.goal = "--tiers " + tiers;
  plan.codes.clear();
  plan.certificates.clear();
  plan.positions = plan.recent = 0;
  plan.predicted_kld = 0;
  plan.trust = 1;
}

void run(const Options& options) {
  std::optional<calib::Tiers> tiers;
  std::optional<AtomicFile> permutations, csv;
  if (!options.tiers.empty()) {
    tiers = calib::parse_tiers(options.tiers);
    if (!options.permutations.empty()) permutations.emplace(options.permutations);
  }
  if (!options.stats.empty()) csv.emplace(options.stats);
  AtomicFile file(options.output);  // opened before the work: a folder that cannot be written to is known at once
  ModelOptions model = options.model;
  if (model.precision == kAutomatic) model.precision = is_large(model.model) ? "fast" : "reference";
  engine::Engine engine = model.open();
  const Stopwatch watch;
  const Partial partial(options.output);
  const Texts texts = read_texts(options, engine);
  codec::Plan plan;
  if (options.from.empty()) {
    plan = statistics_of(options, engine, texts, partial);
  } else {
    plan = codec::read_plan(options.from);
    plan.layouts.reset();
    codec::check_fits(plan, options.from, model::plan_identity(engine.config(), engine.weights()));
  }
  if (options.wants_codes()) {
    choose_codes(options, engine, texts, partial, plan);
    validate(engine, texts, plan);
  }

  std::string summary = statistics_table(engine, plan, stdout_is_terminal());
  if (options.wants_codes()) {
    summary += "\n" + layers_text(plan, stdout_is_terminal());
    if (!plan.certificates.empty()) summary += "\n" + certificate_table(plan, stdout_is_terminal());
  }
  if (tiers) {
    const codec::PermutationFile layouts = calib::make_permutation_file(plan, *tiers);
    if (permutations) {
      permutations->write(codec::serialize_permutation_file(layouts, options.permutations));
      permutations->commit();
    }
    summary += tiers_table(layouts, stdout_is_terminal());
    if (!options.wants_codes()) set_layouts(plan, layouts, options.tiers);
  }
  if (csv) {
    csv->write(calib::statistics_csv(plan));
    csv->commit();
  }
  const auto bytes = codec::serialize_plan(plan);
  file.write(bytes);
  file.commit();
  partial.remove();
  write_stdout(summary + fmt::format("{}: {} of {} tokens in windows of {}, {}, {:.1f} s\n", options.output,
                                     plan.corpus.name, plan.corpus.tokens, plan.corpus.context,
                                     format_bytes(static_cast<double>(bytes.size())), watch.seconds()));
}

void check_options(const Options& options) {
  const bool tiers = !options.tiers.empty();
  if (!tiers && !options.permutations.empty()) {
    throw UsageError("calibrate: --perms needs --tiers (kvant calibrate --help)");
  }
  if (tiers && options.wants_codes() && options.permutations.empty()) {
    throw UsageError("calibrate: beside a budget, which the plan is for, --tiers needs --perms FILE");
  }
  if (options.text.empty() == options.from.empty() && options.text.empty()) {
    throw UsageError("calibrate: -f TEXT or --from PLAN is required (kvant calibrate --help)");
  }
  if (!options.wants_codes()) {
    if (!options.from.empty() && !tiers) {
      throw UsageError("calibrate: --from needs --bits, --memory, --max-kld or --tiers");
    }
    if (!options.validation.empty()) throw UsageError("calibrate: --validate needs --bits, --memory or --max-kld");
    return;
  }
  try {
    calib::check_goal(options.goal);
  } catch (const Error& e) {
    throw UsageError(fmt::format("calibrate: {}", e.what()));
  }
}

void add_goal_options(CLI::App& command, Options& options) {
  command
      .add_option("--bits", options.goal.bits,
                  "Bits of a value, of K and V together, scales and window included; 0.5 to 8.5")
      ->type_name("B");
  command.add_option("--bits-v", options.goal.v_bits, "Bits of a value of V, where --bits is for K; 16: V in f16")
      ->type_name("B");
  command
      .add_option("--memory", options.memory,
                  "What the cache of one sequence may take, as 512MiB@32768, its constants included")
      ->type_name("SIZE@CTX");
  command
      .add_option("--max-kld", options.goal.max_kld,
                  "The fewest bits whose mean divergence from an f16 cache, plus twice its error, is below this")
      ->type_name("X");
  command
      .add_option("--positions", options.positions,
                  "Context that keys are coded for (default: that of --memory, of the plan of --from, or the model's, "
                  "at most 32768)")
      ->check(CLI::Range(std::size_t{64}, std::size_t{1} << 30).description(""))
      ->type_name("N");
  command
      .add_option(
          "--measure", options.measured,
          "Tokens that each layer's sensitivity is measured with (default: 8192, 1024 for models above 512 MiB)")
      ->check(CLI::Range(std::size_t{64}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  command.add_option("--validate", options.validation, "Text for the certificate (default: the end of the text)")
      ->type_name("FILE");
  command
      .add_option("--validate-tokens", options.validated,
                  "Tokens of the certificate (default: 16384, 4096 for models above 512 MiB)")
      ->check(CLI::Range(std::size_t{64}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  command
      .add_option("--without", options.without,
                  "Leave out ingredients, to see what they are worth: transform, parts, sensitivity, window")
      ->check(CLI::IsMember({"transform", "parts", "sensitivity", "window"}).description(""))
      ->delimiter(',')
      ->type_name("WHAT,...");
  command.add_option("--from", options.from, "Take statistics and sensitivities from this plan, for another goal")
      ->type_name("PLAN");
}

}  // namespace

Command add_calibrate(CLI::App& app) {
  CLI::App& command = add_command(
      app, "calibrate", "Find, keep and certify the best cache plan for a budget",
      "Runs the first -n tokens of a text through the model, measures what an error in each layer costs, chooses "
      "codes\n"
      "for each layer and head, and compares the result with an f16 cache on text that nothing was fitted to. Without\n"
      "--bits, --memory, --max-kld or --tiers the plan holds statistics only. An interrupted run goes on where it "
      "was.\n"
      "Example: kvant calibrate -m model.gguf -f text.txt -o plan.gguf --bits 3\n"
      "         kvant calibrate -m model.gguf -f text.txt -o plan.gguf --memory 256MiB@32768\n"
      "         kvant calibrate -m model.gguf --from plan.gguf -o small.gguf --bits 2.5\n"
      "         kvant run -m model.gguf --plan plan.gguf -p Hello\n"
      "         kvant calibrate -m model.gguf -f text.txt -o plan.gguf \\\n"
      "           --tiers 'high=flex:1:9:4:1:1@70,moderate=flex:0:6:0:0:0'");
  auto options = std::make_shared<Options>();
  add_model_options(command, options->model, kAutomatic);
  command.add_option("-f,--file", options->text, "The text's file; - is standard input")->type_name("FILE");
  command.add_option("-o,--output", options->output, "The plan's file")->required()->type_name("FILE");
  add_goal_options(command, *options);
  command.add_option("-n,--tokens", options->tokens, "Tokens of the text that statistics are of (default: 8192)")
      ->check(CLI::Range(std::size_t{2}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  command
      .add_option("-c,--context", options->context, "Tokens of a window (default: 512, at most the model's context)")
      ->check(CLI::Range(std::size_t{2}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  command.add_option("--stats", options->stats, "Also write the statistics of each channel as CSV")->type_name("FILE");
  command
      .add_option("--tiers", options->tiers,
                  "Flex layouts of keys by outlier concentration: NAME=flex:S:H:L:JH:JL[@PERCENT],... with the names "
                  "extreme (from 90 %), high (from 60 %), moderate (the rest) and all")
      ->type_name("SPEC");
  command
      .add_option("--perms", options->permutations,
                  "Also write the layouts of --tiers to a permutation file, for cache type flex,perms=FILE")
      ->type_name("FILE");
  return {&command, [options] {
            read_memory(*options);
            check_options(*options);
            run(*options);
          }};
}

}  // namespace kvant::app
