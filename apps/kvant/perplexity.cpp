#include "eval/perplexity.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "json.h"
#include "options.h"
#include "terminal.h"

namespace kvant::app {
namespace {

struct Options {
  ModelOptions model;
  CacheOptions cache;
  TextOptions text;
  std::size_t context = 512, chunks = 0;
  OutputOptions output;
  bool json = false;
};

void run(const Options& options) {
  eval::PerplexityOptions settings;
  settings.context = options.context;
  settings.chunks = options.chunks;
  const eval::CachePair cache = options.cache.pair();
  settings.k = cache.k;
  settings.v = cache.v;
  Output output(options.output);
  const std::string text = options.text.read();
  engine::Engine engine = options.model.open();
  const auto tokens = encode_text(engine.tokenizer(), text, false, options.text.source());
  KVANT_CHECK(tokens.size() >= options.context, ErrorCode::invalid_argument,
              "{}: {} tokens, less than one window of {} (-c)", options.text.source(), tokens.size(), options.context);

  Progress progress("perplexity", "chunks");
  settings.progress = [&](std::size_t done, std::size_t total, std::string_view status) {
    progress.update(done, total, status);
  };
  const eval::PerplexityResult result = eval::perplexity(engine, tokens, settings);
  progress.clear();

  if (options.json) {
    nlohmann::ordered_json document = {
        {"model", options.model.model},   {"text", options.text.source()}, {"precision", options.model.precision},
        {"chunks", result.chunks},        {"tokens", result.tokens},       {"perplexity", result.perplexity},
        {"stderr", result.standard_error}};
    document.update(cache_json(cache, options.context, result.usage));
    output.write(json_text(document));
  } else {
    output.write(fmt::format("perplexity {:.4f} +- {:.4f} ({} chunks, {} tokens) {}\n", result.perplexity,
                             result.standard_error, result.chunks, result.tokens,
                             describe(settings.k, settings.v, result.usage)));
  }
  output.finish();
}

}  // namespace

Command add_perplexity(CLI::App& app) {
  CLI::App& command =
      add_command(app, "perplexity", "Perplexity of a text, with its standard error",
                  "The text is cut into windows of -c tokens and the second half of each is scored, as "
                  "llama-perplexity does.\n"
                  "Example: kvant perplexity -m model.gguf -f wiki.test.raw -c 512 --chunks 40 --cache-k q8_0");
  auto options = std::make_shared<Options>();
  add_model_options(command, options->model, "reference");
  add_text_options(command, options->text);
  command.add_option("-c,--context", options->context, "Tokens of a window (default: 512)")
      ->check(CLI::Range(std::size_t{2}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  command.add_option("--chunks", options->chunks, "Windows to score (default: all)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  add_output_option(command, options->output);
  command.add_flag("--json", options->json, "Print one JSON document");
  add_cache_options(command, options->cache);
  return {&command, [options] {
            if (!options->text.given()) throw UsageError("perplexity: -f or -p is required (kvant perplexity --help)");
            run(*options);
          }};
}

}  // namespace kvant::app
