#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "eval/agreement.h"
#include "eval/prompts.h"
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
  std::size_t tokens = 128;
  OutputOptions output;
  FormatOptions format;
};

std::string percent(const eval::Estimate& value) {
  return fmt::format("{:.2f} +- {:.2g}", 100 * value.mean, 100 * value.se);
}

std::string result_text(const Options& options, const eval::Agreement& result, bool colour) {
  Table table(
      {"<K", "<V", "K bpv", "V bpv", "agreement, tokens", "median", "identical %", "same tokens %", "script errors %"});
  for (const eval::AgreementResult& row : result.caches) {
    const auto [k, v] = side_names(row.cache);
    table.add({k, v, fmt::format("{:.2f}", row.usage.k_bpv), fmt::format("{:.2f}", row.usage.v_bpv),
               fmt::format("{:.1f} +- {:.2g}", row.length.mean, row.length.se),
               fmt::format("{:.1f}", row.length_median),
               fmt::format("{:.0f} [{:.0f}, {:.0f}]", 100 * row.identical, 100 * row.identical_range.low,
                           100 * row.identical_range.high),
               percent(row.same), percent(row.script_errors)});
  }
  return fmt::format("{} {}, up to {} tokens each, against f16\n\n", result.reference.size(),
                     result.reference.size() == 1 ? "prompt" : "prompts", options.tokens) +
         (options.format.markdown ? table.markdown() : table.text(colour));
}

ordered_json row_json(const tokenizer::Tokenizer& tokenizer, const eval::AgreementResult& row, std::size_t context) {
  ordered_json document = cache_json(row.cache, context, row.usage);
  document.update({{"agreement_length", row.length.mean},
                   {"agreement_length_se", row.length.se},
                   {"agreement_length_median", row.length_median},
                   {"identical", row.identical},
                   {"identical_lo", row.identical_range.low},
                   {"identical_hi", row.identical_range.high},
                   {"token_agreement", row.same.mean},
                   {"token_agreement_se", row.same.se},
                   {"script_errors", row.script_errors.mean},
                   {"script_errors_se", row.script_errors.se},
                   {"prompts", ordered_json::array()}});
  for (const eval::Continuation& one : row.continuations) {
    document["prompts"].push_back({{"agreement_length", one.agreement},
                                   {"identical", one.identical},
                                   {"token_agreement", one.same},
                                   {"characters", one.characters},
                                   {"script_errors", one.foreign},
                                   {"text", tokenizer.decode(one.tokens)}});
  }
  return document;
}

std::string result_json(const Options& options, const tokenizer::Tokenizer& tokenizer, const eval::Agreement& result) {
  ordered_json reference = {{"k", "f16"}, {"v", "f16"}, {"texts", ordered_json::array()}}, rows = ordered_json::array();
  for (const auto& tokens : result.reference) reference["texts"].push_back(tokenizer.decode(tokens));
  for (const eval::AgreementResult& row : result.caches) rows.push_back(row_json(tokenizer, row, result.context));
  const ordered_json document = {{"model", options.model.model},
                                 {"text", options.text.source()},
                                 {"precision", options.model.precision},
                                 {"prompts", result.reference.size()},
                                 {"tokens", options.tokens},
                                 {"reference", reference},
                                 {"results", rows}};
  return json_text(document);
}

void run(const Options& options) {
  eval::AgreementOptions settings;
  settings.tokens = options.tokens;
  settings.caches = options.caches.pairs();
  Output output(options.output);
  const auto prompts = eval::parse_prompts(options.text.read(), options.text.source());
  engine::Engine engine = options.model.open();
  for (const std::string& prompt : prompts) {
    settings.prompts.push_back(encode_text(engine.tokenizer(), prompt, true, options.text.source()));
  }
  Progress progress("agree", "tokens");
  settings.progress = [&](std::size_t done, std::size_t total, std::string_view status) {
    progress.update(done, total, status);
  };
  const eval::Agreement result = eval::agreement(engine, settings);
  progress.clear();
  output.write(options.format.json ? result_json(options, engine.tokenizer(), result)
                                   : result_text(options, result, output.colour()));
  output.finish();
}

}  // namespace

Command add_agree(CLI::App& app) {
  CLI::App& command = add_command(
      app, "agree", "How long texts generated with caches agree with those of an f16 cache",
      "Every line of the text is a prompt; where a line is ---, prompts are what stands between such lines.\n"
      "Example: kvant agree -m model.gguf -f prompts.txt -n 128 --cache lm4/lm4,q4_0/q4_0");
  auto options = std::make_shared<Options>();
  add_model_options(command, options->model, "reference");
  add_text_options(command, options->text);
  add_cache_list(command, options->caches);
  command.add_option("-n,--tokens", options->tokens, "Tokens to generate after each prompt (default: 128)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  add_output_option(command, options->output);
  add_format_options(command, options->format);
  return {&command, [options] {
            if (!options->text.given()) throw UsageError("agree: -f or -p is required (kvant agree --help)");
            if (!options->caches.given()) throw UsageError("agree: --cache or --plan is required (kvant agree --help)");
            run(*options);
          }};
}

}  // namespace kvant::app
