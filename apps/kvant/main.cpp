#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <new>

#include "base/error.h"
#include "options.h"
#include "terminal.h"

namespace kvant::app {
namespace {

constexpr int kFailure = 1;
constexpr int kUsage = 2;

/// One line on standard error, whatever the message holds.
int report(std::string message, int status) {
  std::replace(message.begin(), message.end(), '\n', ' ');
  write_stderr(fmt::format("{} {}\n", bold("kvant: error:", stderr_is_terminal()), message));
  return status;
}

int run(int argc, char** argv) {
  CLI::App parser("Runs language models (GGUF files of Qwen2.5, Qwen3, Llama) with a quantized KV cache", "kvant");
  parser.set_version_flag("--version", std::string("kvant ") + KVANT_VERSION);
  parser.footer(
      "Example: kvant run -m model.gguf -p \"The capital of France is\" -n 32\nkvant COMMAND --help tells more.");
  parser.require_subcommand(1);
  parser.get_formatter()->column_width(26);
  const Command commands[] = {add_run(parser),   add_tokenize(parser), add_inspect(parser),   add_perplexity(parser),
                              add_eval(parser),  add_bench(parser),    add_calibrate(parser), add_report(parser),
                              add_serve(parser), add_retrieve(parser), add_agree(parser),     add_sweep(parser)};
  try {
    parser.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return parser.exit(help);
  } catch (const CLI::ParseError& e) {
    const auto chosen = parser.get_subcommands();
    const std::string name = chosen.empty() ? "" : " " + chosen.front()->get_name();
    return report(fmt::format("{} (kvant{} --help)", e.what(), name), kUsage);
  }
  for (const Command& command : commands) {
    if (command.parser->parsed()) command.run();
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace kvant::app

int main(int argc, char** argv) {
  using namespace kvant::app;
  try {
    return run(argc, argv);
  } catch (const UsageError& e) {
    return report(e.what(), kUsage);
  } catch (const std::bad_alloc&) {
    return report("out of memory", kFailure);
  } catch (const std::exception& e) {
    return report(e.what(), kFailure);
  }
}
