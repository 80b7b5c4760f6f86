#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "options.h"
#include "report/database.h"
#include "report/page.h"

namespace kvant::app {
namespace {

struct Options {
  std::string database;
  OutputOptions output;
};

void run(const Options& options) {
  std::error_code error;
  KVANT_CHECK(!std::filesystem::equivalent(options.database, options.output.file, error), ErrorCode::invalid_argument,
              "{}: the report would be written over the database", options.output.file);
  Output output(options.output);
  output.write(report::render(report::page_template(), report::read_document(options.database, KVANT_VERSION)));
  output.finish();
}

}  // namespace

Command add_report(CLI::App& app) {
  CLI::App& command = add_command(app, "report", "One HTML page of what a sweep measured, to read without a network",
                                  "Example: kvant report results.sqlite -o report.html");
  auto options = std::make_shared<Options>();
  command.add_option("database", options->database, "Database of kvant sweep")->required()->type_name("FILE");
  add_output_option(command, options->output);
  return {&command, [options] { run(*options); }};
}

}  // namespace kvant::app
