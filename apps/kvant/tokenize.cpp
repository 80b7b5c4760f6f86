#include <CLI/CLI.hpp>
#include <charconv>
#include <memory>

#include "base/file_io.h"
#include "options.h"
#include "terminal.h"
#include "tokenizer/tokenizer.h"

namespace kvant::app {
namespace {

using tokenizer::Token;
using tokenizer::Tokenizer;

struct Options {
  std::string model;
  TextOptions text;
  OutputOptions output;
  bool ids = false, decode = false, lines = false, no_special = false;
  std::string separator;
};

/// The cases of a text: the pieces between separators. One at the very end opens no further case.
std::vector<std::string_view> split(std::string_view text, std::string_view separator) {
  if (separator.empty()) return {text};
  std::vector<std::string_view> cases;
  for (;;) {
    const std::size_t at = text.find(separator);
    cases.push_back(text.substr(0, at));
    if (at == std::string_view::npos) break;
    text.remove_prefix(at + separator.size());
  }
  if (cases.size() > 1 && cases.back().empty()) cases.pop_back();
  return cases;
}

std::vector<Token> parse_ids(std::string_view line, const Tokenizer& tokenizer, const std::string& source) {
  constexpr std::string_view kSpace = " \t\r\n,[]";
  std::vector<Token> ids;
  for (;;) {
    line.remove_prefix(std::min(line.find_first_not_of(kSpace), line.size()));
    if (line.empty()) return ids;
    const std::string_view word = line.substr(0, line.find_first_of(kSpace));
    Token id = -1;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    const bool number = error == std::errc() && end == word.data() + word.size();
    KVANT_CHECK(number && id >= 0 && static_cast<std::size_t>(id) < tokenizer.size(), ErrorCode::invalid_argument,
                "{}: '{}' is not a token id (0 to {})", source, printable(word), tokenizer.size() - 1);
    ids.push_back(id);
    line.remove_prefix(word.size());
  }
}

/// Readable pieces of one case: [The][ capital]
std::string pieces(const Tokenizer& tokenizer, const std::vector<Token>& ids) {
  std::string out;
  for (const Token id : ids) out += "[" + printable(tokenizer.piece(id, true)) + "]";
  return out;
}

void run(const Options& options) {
  Output output(options.output);
  const gguf::File file = gguf::File::open(options.model);
  const Tokenizer tokenizer = Tokenizer::from(file);
  const std::string text = options.text.read();
  for (const std::string_view one : split(text, options.lines ? "\n" : std::string_view(options.separator))) {
    if (options.decode) {
      output.write(tokenizer.decode(parse_ids(one, tokenizer, options.text.source()), true));
      if (options.lines) output.write("\n");
      continue;
    }
    const std::vector<Token> ids = tokenizer.encode(one, !options.no_special);
    output.write((options.ids ? fmt::format("{}", fmt::join(ids, " ")) : pieces(tokenizer, ids)) + "\n");
  }
  output.finish();
}

}  // namespace

Command add_tokenize(CLI::App& app) {
  CLI::App& command = add_command(app, "tokenize", "Text to token ids and back",
                                  "The text is taken as it is, without BOS; by default each token's text is shown in "
                                  "brackets.\n"
                                  "Examples: kvant tokenize -m model.gguf -p \"Hello world\" --ids\n"
                                  "          kvant tokenize -m model.gguf -p \"9707 1879\" --decode");
  auto options = std::make_shared<Options>();
  command.add_option("-m,--model", options->model, "Model or vocabulary, a GGUF file")->required()->type_name("FILE");
  add_text_options(command, options->text);
  add_output_option(command, options->output);
  CLI::Option* decode =
      command.add_flag("--decode", options->decode, "The text holds ids: print the text they stand for");
  command.add_flag("--ids", options->ids, "Print ids, one line for each case")->excludes(decode);
  CLI::Option* lines = command.add_flag("--lines", options->lines, "Each line of the text is a case of its own");
  command.add_option("--separator", options->separator, "Text between cases (default: the whole text is one case)")
      ->type_name("TEXT")
      ->excludes(lines);
  command.add_flag("--no-special", options->no_special, "Take special tokens written out in the text as plain text");
  return {&command, [options] {
            if (!options->text.given()) throw UsageError("tokenize: -p or -f is required (kvant tokenize --help)");
            run(*options);
          }};
}

}  // namespace kvant::app
