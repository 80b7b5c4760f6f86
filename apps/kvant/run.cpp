#include <CLI/CLI.hpp>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/checked.h"
#include "chat.h"
#include "json.h"
#include "kernels/attention/attention.h"
#include "options.h"
#include "terminal.h"

namespace kvant::app {
namespace {

constexpr std::size_t kCompletionTokens = 128;
constexpr std::size_t kChatTokens = 1024;
constexpr std::size_t kChatContext = 4096;

struct Options {
  ModelOptions model;
  CacheOptions cache;
  TextOptions text;
  std::string system;
  std::optional<std::size_t> tokens, context;
  std::optional<double> temperature, top_p;
  std::optional<int> top_k;
  engine::SamplerOptions sampler;  ///< what has one default only
  bool chat = false, json = false;
};

/// A completion is greedy; a chat samples as Qwen's generation config recommends.
engine::SamplerOptions sampler_options(const Options& options, bool chat) {
  engine::SamplerOptions sampler = options.sampler;
  sampler.temperature = options.temperature.value_or(chat ? 0.7 : 0);
  sampler.top_k = options.top_k.value_or(chat ? 20 : 0);
  sampler.top_p = options.top_p.value_or(chat ? 0.8 : 1);
  return sampler;
}

std::string_view stop_reason(engine::GenerateResult::Stop stop) {
  using Stop = engine::GenerateResult::Stop;
  switch (stop) {
    case Stop::end_token:
      return "end token";
    case Stop::context_full:
      return "context full";
    case Stop::cancelled:
      return "cancelled";
    case Stop::length:
      break;
  }
  return "length";
}

double prefill_rate(const engine::GenerateResult& result) {
  return result.prefill_seconds > 0 ? static_cast<double>(result.prompt_tokens) / result.prefill_seconds : 0;
}

void print_json(const engine::GenerateResult& result, const std::string& text, const engine::Session& session) {
  const cache::KvCache& cache = session.cache();
  const cache::CacheUsage usage = cache.usage();
  const nlohmann::ordered_json document = {{"text", text},
                                           {"tokens", result.tokens},
                                           {"stop", stop_reason(result.stop)},
                                           {"prompt_tokens", result.prompt_tokens},
                                           {"prefill_tps", prefill_rate(result)},
                                           {"decode_tps", decode_rate(result)},
                                           {"context", cache.config().capacity},
                                           {"k", codec::to_string(cache.config().k)},
                                           {"v", codec::to_string(cache.config().v, codec::PageSide::value)},
                                           {"k_bpv", usage.k_bpv},
                                           {"v_bpv", usage.v_bpv},
                                           {"cache_bytes", usage.bytes()},
                                           {"constant_bytes", usage.constant_bytes}};
  write_stdout(json_text(document));
}

void print_summary(const engine::GenerateResult& result, const engine::Session& session) {
  const cache::KvCache& cache = session.cache();
  write_stderr(fmt::format(
      "prompt {} tokens, {:.1f} tokens/s; generated {} tokens, {:.1f} tokens/s ({})\ncache {} for {} tokens\n",
      result.prompt_tokens, prefill_rate(result), result.tokens.size(), decode_rate(result), stop_reason(result.stop),
      describe(cache.config().k, cache.config().v, cache.usage()), cache.config().capacity));
}

/// Answers or continues one text.
void complete(const Options& options, engine::Engine& engine, const eval::CachePair& cache, const std::string& text) {
  const std::vector<engine::Token> prompt = options.chat
                                                ? chat_prompt(engine, options.system, text)
                                                : encode_text(engine.tokenizer(), text, true, options.text.source());
  engine::Session::Options generation;
  generation.max_tokens = options.tokens.value_or(options.chat ? kChatTokens : kCompletionTokens);
  generation.sampler = sampler_options(options, options.chat);
  const std::size_t context =
      options.context.value_or(round_up(prompt.size() + generation.max_tokens, kernels::kPageTokens));
  KVANT_CHECK(prompt.size() < context || (prompt.size() == context && generation.max_tokens == 0),
              ErrorCode::invalid_argument, "{}: {} tokens do not fit a context of {} (-c)", options.text.source(),
              prompt.size(), context);
  engine::Session session(engine, engine.make_cache(cache.k, cache.v, context));
  warn_beyond_training(engine, context);

  TextStream stream(engine.tokenizer(), [&](std::string_view part) {
    if (!options.json) write_stdout(part);
  });
  Progress progress("prompt", "tokens");
  generation.on_prefill = [&](std::size_t done, std::size_t total) {
    progress.update(done, total);
    if (done == total) progress.clear();
  };
  generation.on_token = [&](engine::Token token) { stream.push(token); };
  const engine::GenerateResult result = session.generate(prompt, generation);
  progress.clear();
  stream.finish();
  if (options.json) {
    print_json(result, stream.text(), session);
  } else {
    if (!stream.text().ends_with('\n')) write_stdout("\n");
    print_summary(result, session);
  }
}

void run(const Options& options) {
  const bool interactive = !options.text.given();
  if (interactive && options.json) throw UsageError("run: --json needs -p or -f (kvant run --help)");
  if (!interactive && !options.chat && !options.system.empty()) {
    throw UsageError("run: --system needs --chat (kvant run --help)");
  }
  ChatSettings settings;
  const eval::CachePair cache = options.cache.pair();
  settings.k = cache.k;
  settings.v = cache.v;
  const std::string text = interactive ? "" : options.text.read();
  engine::Engine engine = options.model.open();
  if (!interactive) return complete(options, engine, cache, text);

  settings.system = options.system;
  settings.context = options.context.value_or(std::min(engine.config().context, kChatContext));
  settings.generation.max_tokens = options.tokens.value_or(kChatTokens);
  settings.generation.sampler = sampler_options(options, true);
  run_chat(engine, settings);
}

void add_sampling(CLI::App& command, Options& options) {
  const std::string group = "Sampling";
  command.add_option("--temp", options.temperature, "Temperature, 0 is greedy (default: 0; chat: 0.7)")
      ->type_name("T")
      ->group(group);
  command.add_option("--top-k", options.top_k, "Keep the K likeliest tokens, 0 is all (default: 0; chat: 20)")
      ->type_name("K")
      ->group(group);
  command.add_option("--top-p", options.top_p, "Keep the likeliest tokens up to probability P (default: 1; chat: 0.8)")
      ->type_name("P")
      ->group(group);
  command.add_option("--min-p", options.sampler.min_p, "Drop tokens below P times the likeliest (default: 0)")
      ->type_name("P")
      ->group(group);
  command
      .add_option("--repeat-penalty", options.sampler.repeat_penalty, "Penalty of recent tokens, 1 is none (default)")
      ->type_name("X")
      ->group(group);
  command.add_option("--seed", options.sampler.seed, "Seed of the draw (default: 0); the same seed, the same text")
      ->check(CLI::Range(std::uint64_t{0}, std::numeric_limits<std::uint64_t>::max() / 2).description(""))
      ->type_name("N")
      ->group(group);
}

}  // namespace

Command add_run(CLI::App& app) {
  CLI::App& command =
      add_command(app, "run", "Continue a text, or chat with the model",
                  "Without -p and -f: a chat, one message a line from the terminal or a pipe. Ctrl-C stops an answer.\n"
                  "Examples: kvant run -m model.gguf -p \"The capital of France is\" -n 32\n"
                  "          kvant run -m model.gguf --chat -p \"Who wrote Faust?\"\n"
                  "          kvant run -m model.gguf --cache-k q8_0 --system \"You answer briefly.\"");
  auto options = std::make_shared<Options>();
  add_model_options(command, options->model, "fast");
  add_text_options(command, options->text);
  command.add_option("-n,--tokens", options->tokens, "Most tokens to generate (default: 128; chat: 1024 an answer)")
      ->check(CLI::Range(std::size_t{0}, std::size_t{1} << 31).description(""))
      ->type_name("N");
  command
      .add_option(
          "-c,--context", options->context,
          "Tokens that the cache holds (default: at least prompt + -n; interactive chat: as trained, at most 4096)")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1} << 40).description(""))
      ->type_name("N");
  command.add_flag("--chat", options->chat, "Put the text into the model's chat template");
  command.add_option("--system", options->system, "System message of a chat")->type_name("TEXT");
  command.add_flag("--json", options->json, "Print one JSON document");
  add_sampling(command, *options);
  add_cache_options(command, options->cache);
  return {&command, [options] { run(*options); }};
}

}  // namespace kvant::app
