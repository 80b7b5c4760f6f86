#pragma once
#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_io.h"
#include "codec/spec.h"
#include "engine/engine.h"
#include "eval/cache_pair.h"

namespace CLI {  // NOLINT(readability-identifier-naming): CLI11's name
class App;
}

namespace kvant::app {

/// A command line that makes no sense: exit status 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A subcommand as main() needs it.
struct Command {
  const CLI::App* parser;
  std::function<void()> run;
};

// One of these for each file of a subcommand: declares its options and returns what runs it.
Command add_run(CLI::App& app);
Command add_tokenize(CLI::App& app);
Command add_inspect(CLI::App& app);
Command add_perplexity(CLI::App& app);
Command add_eval(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_calibrate(CLI::App& app);
Command add_report(CLI::App& app);
Command add_serve(CLI::App& app);
Command add_retrieve(CLI::App& app);
Command add_agree(CLI::App& app);
Command add_sweep(CLI::App& app);

/// -m -t --precision
struct ModelOptions {
  std::string model;
  int threads = 0;  ///< 0: all processors
  std::string precision;

  engine::Engine open() const;
};
void add_model_options(CLI::App& command, ModelOptions& options, std::string_view default_precision);

/// --cache-k --cache-v --plan
struct CacheOptions {
  std::string k = "f16", v = "f16", plan;

  /// The cache that they ask for; reads the plan. Throws naming the option.
  eval::CachePair pair() const;
};
void add_cache_options(CLI::App& command, CacheOptions& options);

/// --cache and --plan of commands that judge several caches.
struct CacheListOptions {
  std::vector<std::string> caches, plans;

  bool given() const { return !caches.empty() || !plans.empty(); }
  /// The caches, those of plans last; reads the plans. Throws naming the option.
  std::vector<eval::CachePair> pairs() const;
};
void add_cache_list(CLI::App& command, CacheListOptions& options);

/// The caches that the texts of an option name. Throws naming the option.
std::vector<eval::CachePair> parse_caches(std::string_view option, const std::vector<std::string>& texts);

/// What tables call keys and values: plan:FILE for a side that a plan codes whole, else the type.
struct SideNames {
  std::string k, v;
};
SideNames side_names(const eval::CachePair& pair);

/// -p TEXT and -f FILE, of which at most one is given.
struct TextOptions {
  std::string prompt, file;
  bool has_prompt = false, has_file = false;

  bool given() const { return has_prompt || has_file; }
  /// The source as errors name it: the file's path or "-p".
  std::string source() const;
  /// The text. Throws when it is empty or no valid UTF-8.
  std::string read() const;
};
void add_text_options(CLI::App& command, TextOptions& options);

/// -o FILE
struct OutputOptions {
  std::string file;  ///< empty: standard output
};
void add_output_option(CLI::App& command, OutputOptions& options);

/// Where the result of a command goes: standard output, or a file that is written whole or not at all. Opened before
/// the work starts, so that a folder that cannot be written to is known at once.
class Output {
 public:
  explicit Output(const OutputOptions& options);
  void write(std::string_view text);
  /// Completes the file.
  void finish();
  /// Whether the text is seen on a terminal.
  bool colour() const;

 private:
  std::unique_ptr<AtomicFile> file_;
};

/// --json and --markdown of commands that print a table.
struct FormatOptions {
  bool json = false, markdown = false;
};
void add_format_options(CLI::App& command, FormatOptions& options);

/// The ids of a text, with BOS in front where the vocabulary asks for it. `source` names the text in errors.
std::vector<engine::Token> encode_text(const tokenizer::Tokenizer& tokenizer, std::string_view text, bool parse_special,
                                       std::string_view source);

/// Bytes of "512MiB", "1.5GB", "1000000". Throws UsageError, naming the option.
double parse_size(std::string_view option, std::string_view text);

/// "k f16 v q8_0, 16.00 and 8.50 bits per value, 3.1 MiB"
std::string describe(const codec::CacheSpec& k, const codec::CacheSpec& v, const cache::CacheUsage& usage);

/// Declares a subcommand whose --help ends with `example`.
CLI::App& add_command(CLI::App& app, const std::string& name, const std::string& description,
                      const std::string& example);

}  // namespace kvant::app
