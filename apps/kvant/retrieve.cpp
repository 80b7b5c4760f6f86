#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "eval/retrieval.h"
#include "json.h"
#include "options.h"
#include "terminal.h"

namespace kvant::app {
namespace {

using nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  TextOptions text;
  CacheListOptions caches;
  std::vector<std::size_t> contexts{512};
  std::vector<double> depths{0, 25, 50, 75, 100};  ///< percent
  eval::RetrievalOptions settings;
  OutputOptions output;
  FormatOptions format;
};

/// What was found with one context.
struct Result {
  std::size_t context = 0;
  std::vector<eval::RetrievalResult> caches;
};

/// "19/20 [76, 99]", the interval in percent.
std::string share(std::size_t found, std::size_t trials, const eval::Interval& range) {
  return fmt::format("{}/{} [{:.0f}, {:.0f}]", found, trials, 100 * range.low, 100 * range.high);
}

/// Of all depths with this number of keys.
std::string overall(const eval::RetrievalResult& row, std::size_t keys) {
  std::size_t found = 0, trials = 0;
  for (const eval::RetrievalCell& cell : row.cells) {
    if (cell.keys != keys) continue;
    found += cell.found;
    trials += cell.trials;
  }
  return share(found, trials, eval::wilson(found, trials));
}

std::string result_text(const Options& options, const std::vector<Result>& results, bool colour) {
  std::string out;
  for (const Result& result : results) {
    for (const std::size_t keys : options.settings.keys) {
      out += fmt::format("{}context {}, {} {} of {} {}, found at each depth [95 %]\n\n", out.empty() ? "" : "\n",
                         result.context, keys, keys == 1 ? "key" : "keys", options.settings.values,
                         options.settings.values == 1 ? "value" : "values");
      std::vector<std::string> headers = {"<K", "<V", "K bpv", "V bpv"};
      for (const double depth : options.depths) headers.push_back(fmt::format("{:.6g} %", depth));
      headers.emplace_back("all");
      Table table(headers);
      for (const eval::RetrievalResult& row : result.caches) {
        const auto [k, v] = side_names(row.cache);
        std::vector<std::string> cells = {k, v, fmt::format("{:.2f}", row.usage.k_bpv),
                                          fmt::format("{:.2f}", row.usage.v_bpv)};
        for (const eval::RetrievalCell& cell : row.cells) {
          if (cell.keys == keys) cells.push_back(share(cell.found, cell.trials, cell.range));
        }
        cells.push_back(overall(row, keys));
        table.add(std::move(cells));
      }
      out += options.format.markdown ? table.markdown() : table.text(colour);
    }
  }
  return out;
}

ordered_json row_json(const eval::RetrievalResult& row, std::size_t context) {
  ordered_json document = cache_json(row.cache, context, row.usage);
  document["cells"] = ordered_json::array();
  for (const eval::RetrievalCell& cell : row.cells) {
    document["cells"].push_back({{"keys", cell.keys},
                                 {"depth", cell.depth},
                                 {"trials", cell.trials},
                                 {"found", cell.found},
                                 {"low", cell.range.low},
                                 {"high", cell.range.high}});
  }
  return document;
}

std::string result_json(const Options& options, const std::vector<Result>& results) {
  ordered_json rows = ordered_json::array();
  for (const Result& result : results) {
    for (const eval::RetrievalResult& row : result.caches) rows.push_back(row_json(row, result.context));
  }
  const ordered_json document = {{"model", options.model.model},
                                 {"text", options.text.source()},
                                 {"precision", options.model.precision},
                                 {"seed", options.settings.seed},
                                 {"values", options.settings.values},
                                 {"needle", options.settings.needle},
                                 {"question", eval::question_of(options.settings)},
                                 {"results", rows}};
  return json_text(document);
}

void run(const Options& options) {
  eval::RetrievalOptions settings = options.settings;
  settings.caches = options.caches.pairs();
  settings.depths.clear();
  for (const double percent : options.depths) settings.depths.push_back(percent / 100);
  Output output(options.output);
  const std::string text = options.text.read();
  engine::Engine engine = options.model.open();
  const eval::Haystack haystack(engine.tokenizer(), text, options.text.source());
  for (const std::size_t context : options.contexts) {
    settings.context = context;
    eval::check_retrieval(haystack, settings);
  }

  std::vector<Result> results;
  for (const std::size_t context : options.contexts) {
    Progress progress(fmt::format("retrieve -c {}", context), "tokens");
    settings.context = context;
    settings.progress = [&](std::size_t done, std::size_t total, std::string_view status) {
      progress.update(done, total, status);
    };
    results.push_back({context, eval::retrieve(engine, haystack, settings)});
  }
  output.write(options.format.json ? result_json(options, results) : result_text(options, results, output.colour()));
  output.finish();
}

void add_trial_options(CLI::App& command, Options& options) {
  const auto count = [](std::size_t low, std::size_t high) { return CLI::Range(low, high).description(""); };
  eval::RetrievalOptions& settings = options.settings;
  command.add_option("-c,--context", options.contexts, "Tokens of a prompt and its answer, a list (default: 512)")
      ->check(count(1, std::size_t{1} << 31))
      ->delimiter(',')
      ->type_name("N,...");
  command
      .add_option("--depths", options.depths,
                  "Where the needle is, in percent of the text before the question (default: 0,25,50,75,100)")
      ->check(CLI::Range(0.0, 100.0).description(""))
      ->delimiter(',')
      ->type_name("X,...");
  command.add_option("--keys", settings.keys, "Keys that are hidden, of which one is asked for, a list (default: 1)")
      ->check(count(1, eval::RetrievalOptions::kMostKeys))
      ->delimiter(',')
      ->type_name("N,...");
  command.add_option("--values", settings.values, "Values of each key, all of which are asked for (default: 1)")
      ->check(count(1, eval::RetrievalOptions::kMostValues))
      ->type_name("N");
  command.add_option("--trials", settings.trials, "Trials of each depth and number of keys (default: 20)")
      ->check(count(1, eval::RetrievalOptions::kMostTrials))
      ->type_name("N");
  command.add_option("--seed", settings.seed, "Chooses texts, keys and values (default: 1)")->type_name("N");
  command.add_option("--needle", settings.needle, fmt::format("What is hidden (default: \"{}\")", settings.needle))
      ->type_name("TEXT");
  command
      .add_option("--question", settings.question,
                  fmt::format("What is asked at the end (default: \"{}\"; with several values \"{}\")",
                              eval::RetrievalOptions::kQuestion, eval::RetrievalOptions::kQuestions))
      ->type_name("TEXT");
}

}  // namespace

Command add_retrieve(CLI::App& app) {
  CLI::App& command =
      add_command(app, "retrieve", "Whether a model finds with a cache what is hidden in a long text",
                  "Codes are hidden in excerpts of the text and asked for at the end; an answer counts when it is "
                  "exact. Compare caches with f16, not with 100 %.\n"
                  "Example: kvant retrieve -m model.gguf -f book.txt -c 4096,32768 --keys 1,8 --cache f16,lm4/lm4");
  auto options = std::make_shared<Options>();
  add_model_options(command, options->model, "reference");
  add_text_options(command, options->text);
  add_cache_list(command, options->caches);
  add_trial_options(command, *options);
  add_output_option(command, options->output);
  add_format_options(command, options->format);
  return {&command, [options] {
            if (!options->text.given()) throw UsageError("retrieve: -f or -p is required (kvant retrieve --help)");
            if (!options->caches.given()) {
              throw UsageError("retrieve: --cache or --plan is required (kvant retrieve --help)");
            }
            run(*options);
          }};
}

}  // namespace kvant::app
