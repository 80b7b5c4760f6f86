#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/clock.h"
#include "eval/compare.h"
#include "json.h"
#include "options.h"
#include "sweep/recorder.h"
#include "terminal.h"

namespace kvant::app {
namespace {

using nlohmann::ordered_json;

struct Options {
  ModelOptions model;
  TextOptions text;
  CacheListOptions caches;
  std::string reference = "f16", logits, save_logits, database;
  std::vector<std::size_t> contexts{512};
  std::size_t chunks = 0;
  bool noise_floor = false, decode = false;
  OutputOptions output;
  FormatOptions format;
};

bool is_plain(const std::string& reference) { return reference == "f16" || reference == "f32"; }

/// f16 and f32 are for keys and values.
eval::CachePair parse_reference(const std::string& text) {
  const auto pairs = parse_caches("--reference", {is_plain(text) ? text + "/" + text : text});
  KVANT_CHECK(pairs.size() == 1, ErrorCode::invalid_argument, "--reference: {}: {} caches, expected 1", text,
              pairs.size());
  return pairs.front();
}

/// What the reference is called: its cache, or the file that stands for it.
std::string reference_name(const Options& options) {
  return options.logits.empty() ? options.reference : options.logits;
}

/// Three significant digits: "0.00483", "1.2e-09", "0".
std::string digits(double value) { return fmt::format("{:.3g}", value); }

/// `name`: of the row, where it is not that of its keys.
void add_row(Table& table, const eval::CacheResult& row, const std::string& name = {}) {
  const eval::Summary& all = row.all;
  const auto [k, v] = side_names(row.cache);
  table.add({name.empty() ? k : name, v, fmt::format("{:.2f}", row.usage.k_bpv), fmt::format("{:.2f}", row.usage.v_bpv),
             format_bytes(static_cast<double>(row.usage.bytes())),
             fmt::format("{} +- {:.2g}", digits(all.kld_mean), all.kld_se), digits(all.kld_median), digits(all.kld_p99),
             digits(all.kld_max), fmt::format("{:.2f}", 100 * all.top1),
             fmt::format("{:.2f}", 100 * all.rms_probability),
             fmt::format("{:.4f} [{:.4f}, {:.4f}]", all.ppl_ratio, all.ppl_ratio_range.low, all.ppl_ratio_range.high),
             digits(row.last_quarter.kld_mean), fmt::format("{:.4f}", row.last_quarter.ppl_ratio)});
}

/// What figures against a file are good for.
std::string floor_text(const std::string& file, const eval::FileFloor& floor) {
  return fmt::format(
      "\nnoise floor: {} has log-probabilities in steps of {} nats. That alone makes a KLD of up to {} and moves the "
      "loss "
      "of a token by up to {}. Tokens that it only bounds have {} of the probability and count as one; {} true tokens "
      "are among them.\n",
      file, digits(floor.step), digits(floor.divergence), digits(floor.step / 2), digits(floor.bounded_share),
      floor.bounded);
}

std::string result_text(const Options& options, const std::vector<eval::CompareResult>& results, bool colour) {
  std::string out;
  for (const eval::CompareResult& result : results) {
    out +=
        fmt::format("{}context {}, {} chunks, {} tokens: reference {} has perplexity {:.4f}", out.empty() ? "" : "\n",
                    result.context, result.chunks, result.tokens, reference_name(options), result.perplexity);
    if (!result.file_floor) out += ", " + format_bytes(static_cast<double>(result.usage.bytes()));
    out += "\n";
    if (!options.caches.given()) continue;
    Table table({"<K", "<V", "K bpv", "V bpv", "cache", "KLD mean", "median", "p99", "max", "top-1 %", "rms dp %",
                 "PPL ratio [95 %]", "last 1/4 KLD", "PPL ratio"});
    for (const eval::CacheResult& row : result.caches) add_row(table, row);
    if (result.noise_floor) add_row(table, *result.noise_floor, "noise floor");
    out += "\n" + (options.format.markdown ? table.markdown() : table.text(colour));
    if (result.file_floor) out += floor_text(options.logits, *result.file_floor);
  }
  return out;
}

/// Of the last quarter, and of the whole with more added to it.
ordered_json summary_json(const eval::Summary& summary) {
  return {{"tokens", summary.tokens},
          {"kld_mean", summary.kld_mean},
          {"kld_se", summary.kld_se},
          {"kld_median", summary.kld_median},
          {"kld_p90", summary.kld_p90},
          {"kld_p95", summary.kld_p95},
          {"kld_p99", summary.kld_p99},
          {"kld_p999", summary.kld_p999},
          {"kld_max", summary.kld_max},
          {"top1", summary.top1},
          {"top1_lo", summary.top1_range.low},
          {"top1_hi", summary.top1_range.high},
          {"rms_probability", summary.rms_probability},
          {"ln_ppl_ratio", summary.log_ppl_ratio},
          {"ppl_ratio", summary.ppl_ratio},
          {"ppl_ratio_lo", summary.ppl_ratio_range.low},
          {"ppl_ratio_hi", summary.ppl_ratio_range.high}};
}

ordered_json row_json(const eval::CacheResult& row, std::size_t context) {
  ordered_json document = cache_json(row.cache, context, row.usage);
  document.update(summary_json(row.all));
  document["perplexity"] = row.perplexity;
  document["last_quarter"] = summary_json(row.last_quarter);
  document["positions"] = ordered_json::array();
  for (const eval::PositionRange& part : row.positions) {
    document["positions"].push_back(
        {{"begin", part.begin}, {"end", part.end}, {"kld_mean", part.kld_mean}, {"kld_se", part.kld_se}});
  }
  return document;
}

/// What all were compared with: a cache, or a file.
ordered_json reference_json(const Options& options, const std::vector<eval::CompareResult>& results) {
  ordered_json document;
  if (options.logits.empty()) {
    const eval::CachePair pair = parse_reference(options.reference);
    document = {{"k", codec::to_string(pair.k)}, {"v", codec::to_string(pair.v, codec::PageSide::value)}};
  } else {
    document = {{"logits", options.logits}};
  }
  document["contexts"] = ordered_json::array();
  for (const eval::CompareResult& result : results) {
    ordered_json& context = document["contexts"].emplace_back(ordered_json{{"context", result.context},
                                                                           {"chunks", result.chunks},
                                                                           {"tokens", result.tokens},
                                                                           {"perplexity", result.perplexity}});
    if (result.file_floor) {
      context["floor"] = {{"step", result.file_floor->step},
                          {"kld", result.file_floor->divergence},
                          {"bounded_share", result.file_floor->bounded_share},
                          {"bounded", result.file_floor->bounded}};
    } else {
      context["k_bpv"] = result.usage.k_bpv;
      context["v_bpv"] = result.usage.v_bpv;
      context["cache_bytes"] = result.usage.bytes();
    }
  }
  return document;
}

std::string result_json(const Options& options, const std::vector<eval::CompareResult>& results) {
  ordered_json rows = ordered_json::array(), floors = ordered_json::array();
  for (const eval::CompareResult& result : results) {
    for (const eval::CacheResult& row : result.caches) rows.push_back(row_json(row, result.context));
    if (result.noise_floor) floors.push_back(row_json(*result.noise_floor, result.context));
  }
  ordered_json document = {{"model", options.model.model},
                           {"text", options.text.source()},
                           {"precision", options.model.precision},
                           {"decode", options.decode},
                           {"reference", reference_json(options, results)},
                           {"results", rows}};
  if (options.noise_floor) document["noise_floor"] = floors;
  return json_text(document);
}

/// What is measured, as a sweep would have it.
sweep::Grid grid_of(const Options& options, const std::vector<eval::CachePair>& caches) {
  sweep::Grid grid;
  grid.models = {{options.model.model, options.model.model}};
  grid.texts = {{options.text.file, options.text.file}};
  grid.contexts = options.contexts;
  for (const eval::CachePair& pair : caches) grid.caches.push_back(sweep::grid_cache(pair));
  grid.kinds = {options.decode ? sweep::kDecode : sweep::kCompare};
  grid.chunks = options.chunks;
  grid.reference = options.reference;
  grid.precision = options.model.precision;
  return grid;
}

void check_usage(const Options& options) {
  const bool save = !options.save_logits.empty();
  if (!options.text.given()) throw UsageError("eval: -f or -p is required (kvant eval --help)");
  if (!options.caches.given() && !save) throw UsageError("eval: --cache or --plan is required (kvant eval --help)");
  if (save && options.contexts.size() != 1) throw UsageError("eval: --save-logits takes one value of -c");
  if (!save && !is_plain(options.reference)) {
    throw UsageError(
        fmt::format("eval: --reference {}: f16 or f32, others with --save-logits only", options.reference));
  }
  if (options.database.empty()) return;
  if (!options.caches.given()) throw UsageError("eval: --db keeps caches, and --cache names none");
  if (!options.text.has_file || options.text.file == "-") throw UsageError("eval: --db needs a text file (-f)");
  if (!is_plain(options.reference)) {
    throw UsageError(fmt::format("eval: --reference {}: f16 or f32 with --db", options.reference));
  }
}

void run(const Options& options) {
  eval::CompareOptions settings;
  settings.caches = options.caches.pairs();
  settings.reference = parse_reference(options.reference);
  settings.logits = options.logits;
  settings.save_logits = options.save_logits;
  settings.chunks = options.chunks;
  settings.noise_floor = options.noise_floor;
  settings.decode = options.decode;
  Output output(options.output);
  const std::string text = options.text.read();
  engine::Engine engine = options.model.open();
  const auto tokens = encode_text(engine.tokenizer(), text, false, options.text.source());
  const std::size_t longest = *std::max_element(options.contexts.begin(), options.contexts.end());
  KVANT_CHECK(tokens.size() >= longest || !options.logits.empty(), ErrorCode::invalid_argument,
              "{}: {} tokens, less than one window of {} (-c)", options.text.source(), tokens.size(), longest);

  std::optional<sweep::Recorder> recorder;
  if (!options.database.empty()) {
    recorder.emplace(options.database, grid_of(options, settings.caches), engine, text, KVANT_VERSION);
  }
  std::vector<eval::CompareResult> results;
  for (const std::size_t context : options.contexts) {
    const Stopwatch watch;
    Progress progress(options.logits.empty() ? fmt::format("eval -c {}", context) : "eval", "tokens");
    settings.context = context;
    settings.progress = [&](std::size_t done, std::size_t total, std::string_view status) {
      progress.update(done, total, status);
    };
    results.push_back(eval::compare(engine, tokens, settings));
    if (recorder) recorder->add(results.size() - 1, results.back(), watch.seconds());
  }
  output.write(options.format.json ? result_json(options, results) : result_text(options, results, output.colour()));
  output.finish();
}

}  // namespace

Command add_eval(CLI::App& app) {
  CLI::App& command =
      add_command(app, "eval", "What caches cost: divergence from the same weights with an f16 or f32 cache",
                  "A cache is K or K/V (V is f16 where it is not named); several are given one after the other, or "
                  "between commas.\n"
                  "Example: kvant eval -m model.gguf -f wiki.test.raw -c 512,4096 --cache q8_0 rot-q4_0/q8_0\n"
                  "         With --db results.sqlite, kvant report makes a page of them.");
  auto options = std::make_shared<Options>();
  add_model_options(command, options->model, "reference");
  add_text_options(command, options->text);
  add_cache_list(command, options->caches);
  CLI::Option* context =
      command.add_option("-c,--context", options->contexts, "Tokens of a window, a list (default: 512)")
          ->check(CLI::Range(std::size_t{3}, std::size_t{1} << 31).description(""))
          ->delimiter(',')
          ->type_name("N,...");
  CLI::Option* chunks = command.add_option("--chunks", options->chunks, "Windows to score (default: all)")
                            ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 31).description(""))
                            ->type_name("N");
  CLI::Option* reference =
      command
          .add_option("--reference", options->reference,
                      "Cache of the reference, f16 or f32 (default: f16); with --save-logits any that --cache takes")
          ->type_name("TYPE");
  CLI::Option* floor = command.add_flag("--noise-floor", options->noise_floor,
                                        "Also compare the reference with itself in other batches");
  CLI::Option* save = command
                          .add_option("--save-logits", options->save_logits,
                                      "Write the reference's logits as llama-perplexity --kl-divergence-base does")
                          ->type_name("FILE");
  CLI::Option* database = command
                              .add_option("--db", options->database,
                                          "Also keep the results in a database of kvant sweep, for kvant report; made "
                                          "where there is none")
                              ->type_name("FILE");
  command
      .add_option("--logits", options->logits,
                  "Compare with such a file, made from the same text, instead of with a cache; windows are the file's")
      ->excludes(context)
      ->excludes(chunks)
      ->excludes(reference)
      ->excludes(floor)
      ->excludes(save)
      ->excludes(database)
      ->type_name("FILE");
  command.add_flag("--decode", options->decode,
                   "Feed the scored tokens to the caches one by one, as when text is generated");
  add_output_option(command, options->output);
  add_format_options(command, options->format);
  return {&command, [options] {
            check_usage(*options);
            run(*options);
          }};
}

}  // namespace kvant::app
