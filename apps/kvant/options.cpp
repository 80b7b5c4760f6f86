#include "options.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <charconv>

#include "base/utf8.h"
#include "sweep/grid.h"
#include "terminal.h"

namespace kvant::app {
namespace {

constexpr const char* kGroup = "Cache";
constexpr const char* kKeysHelp =
    "How keys are stored (default: f16): TYPE[,key=value...]. Types: lm1 .. lm6, uni2 .. uni8, f32 f16 bf16 q8_0 q5_1 "
    "q5_0 q4_1 q4_0, rot- before a q type, flex:S:H:L:JH:JL, plan. Keys: anchor=none|static|bias|mean "
    "scale=none|weights|auto|plan group=N norm=f16|log8 sinks=N recent=N plan=FILE perms=FILE";
constexpr const char* kValuesHelp = "How values are stored (default: f16), likewise; no flex and no scale";

codec::CacheSpec parse_spec(std::string_view option, const std::string& text, codec::PageSide side) {
  try {
    return codec::parse_cache_spec(text, side);
  } catch (const Error& e) {
    throw Error(e.code(), fmt::format("{}: {}", option, e.what()));
  }
}

}  // namespace

engine::Engine ModelOptions::open() const {
  engine::Engine::Options options;
  options.threads = threads;
  options.isa = active_isa();
  options.precision = precision == "fast" ? kernels::Precision::fast : kernels::Precision::reference;
  return engine::Engine(model, options);
}

void add_model_options(CLI::App& command, ModelOptions& options, std::string_view default_precision) {
  options.precision = default_precision;
  command.add_option("-m,--model", options.model, "Model, a GGUF file")->required()->type_name("FILE");
  command.add_option("-t,--threads", options.threads, "Threads (default: all processors)")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("N");
  command
      .add_option("--precision", options.precision,
                  "fast: on the quantized weights; reference: f32 throughout (default: " + options.precision + ")")
      ->check(CLI::IsMember({"reference", "fast"}).description(""))
      ->type_name("WHICH");
}

eval::CachePair CacheOptions::pair() const {
  if (!plan.empty()) return eval::plan_pair(plan);
  return {parse_spec("--cache-k", k, codec::PageSide::key), parse_spec("--cache-v", v, codec::PageSide::value)};
}

void add_cache_options(CLI::App& command, CacheOptions& options) {
  CLI::Option* keys = command.add_option("--cache-k", options.k, kKeysHelp)->type_name("TYPE")->group(kGroup);
  CLI::Option* values = command.add_option("--cache-v", options.v, kValuesHelp)->type_name("TYPE")->group(kGroup);
  command
      .add_option("--plan", options.plan,
                  "Store keys and values as a plan file says (kvant calibrate --bits writes it)")
      ->excludes(keys)
      ->excludes(values)
      ->type_name("FILE")
      ->group(kGroup);
}

std::vector<eval::CachePair> parse_caches(std::string_view option, const std::vector<std::string>& texts) {
  std::vector<eval::CachePair> pairs;
  try {
    for (const std::string& text : texts) {
      const auto more = eval::parse_cache_list(text);
      pairs.insert(pairs.end(), more.begin(), more.end());
    }
  } catch (const Error& e) {
    throw Error(e.code(), fmt::format("{}: {}", option, e.what()));
  }
  return pairs;
}

std::vector<eval::CachePair> CacheListOptions::pairs() const {
  std::vector<eval::CachePair> pairs = parse_caches("--cache", caches);
  for (const std::string& plan : plans) pairs.push_back(eval::plan_pair(plan));
  return pairs;
}

void add_cache_list(CLI::App& command, CacheListOptions& options) {
  command
      .add_option("--cache", options.caches, "What to compare: K or K/V of types as --cache-k takes them, or plan:FILE")
      ->type_name("CACHE...");
  command.add_option("--plan", options.plans, "The same as --cache plan:FILE")->type_name("FILE...");
}

SideNames side_names(const eval::CachePair& pair) {
  const sweep::GridCache cache = sweep::grid_cache(pair);
  return {sweep::side_text(cache, codec::PageSide::key), sweep::side_text(cache, codec::PageSide::value)};
}

std::string TextOptions::source() const {
  if (!has_file) return "-p";
  return file == "-" ? "standard input" : file;
}

std::string TextOptions::read() const {
  std::string text = has_file ? read_text(file) : prompt;
  KVANT_CHECK(!text.empty(), ErrorCode::invalid_argument, "{}: the text is empty", source());
  if (!is_valid_utf8(text)) {
    std::size_t at = 0;
    while (const std::size_t n = utf8_sequence_length(std::string_view(text).substr(at))) at += n;
    fail(ErrorCode::invalid_argument, "{}: byte {} (0x{:02x}) is not valid UTF-8", source(), at,
         static_cast<unsigned char>(text[at]));
  }
  return text;
}

void add_text_options(CLI::App& command, TextOptions& options) {
  CLI::Option* prompt = command.add_option("-p,--prompt", options.prompt, "The text itself")->type_name("TEXT");
  CLI::Option* file =
      command.add_option("-f,--file", options.file, "The text's file; - is standard input")->type_name("FILE");
  prompt->each([&options](const std::string&) { options.has_prompt = true; })->excludes(file);
  file->each([&options](const std::string&) { options.has_file = true; });
}

void add_output_option(CLI::App& command, OutputOptions& options) {
  command.add_option("-o,--output", options.file, "Write to FILE instead of standard output")->type_name("FILE");
}

void add_format_options(CLI::App& command, FormatOptions& options) {
  CLI::Option* json = command.add_flag("--json", options.json, "Print one JSON document");
  command.add_flag("--markdown", options.markdown, "Print the table as Markdown")->excludes(json);
}

Output::Output(const OutputOptions& options)
    : file_(options.file.empty() ? nullptr : std::make_unique<AtomicFile>(options.file)) {}

void Output::write(std::string_view text) { file_ ? file_->write(text) : write_stdout(text); }

void Output::finish() {
  if (file_) file_->commit();
}

bool Output::colour() const { return !file_ && stdout_is_terminal(); }

std::vector<engine::Token> encode_text(const tokenizer::Tokenizer& tokenizer, std::string_view text, bool parse_special,
                                       std::string_view source) {
  try {
    return tokenizer.encode_prompt(text, parse_special);
  } catch (const Error& e) {
    throw Error(e.code(), fmt::format("{}: {}", source, e.what()));
  }
}

double parse_size(std::string_view option, std::string_view text) {
  double value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  constexpr std::array<std::pair<std::string_view, double>, 9> kUnits{{{"", 1},
                                                                       {"B", 1},
                                                                       {"kB", 1e3},
                                                                       {"KB", 1e3},
                                                                       {"MB", 1e6},
                                                                       {"GB", 1e9},
                                                                       {"KiB", 0x1p10},
                                                                       {"MiB", 0x1p20},
                                                                       {"GiB", 0x1p30}}};
  const auto known = std::find_if(kUnits.begin(), kUnits.end(), [&](const auto& u) { return u.first == unit; });
  if (status != std::errc{} || known == kUnits.end() || !(value > 0) || value > 1e12) {
    throw UsageError(fmt::format("{} {}: expected a size such as 512MiB", option, printable(text)));
  }
  return value * known->second;
}

std::string describe(const codec::CacheSpec& k, const codec::CacheSpec& v, const cache::CacheUsage& usage) {
  std::string text = fmt::format("k {} v {}, {:.2f} and {:.2f} bits per value, {}", codec::to_string(k),
                                 codec::to_string(v, codec::PageSide::value), usage.k_bpv, usage.v_bpv,
                                 format_bytes(static_cast<double>(usage.bytes())));
  if (usage.constant_bytes > 0) {
    text += fmt::format(" and {} of constants", format_bytes(static_cast<double>(usage.constant_bytes)));
  }
  return text;
}

CLI::App& add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::string& example) {
  CLI::App* command = app.add_subcommand(name, description);
  command->footer(example);
  return *command;
}

}  // namespace kvant::app
