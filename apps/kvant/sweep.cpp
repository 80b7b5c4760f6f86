#include <signal.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "json.h"
#include "options.h"
#include "sweep/ranks.h"
#include "sweep/runner.h"
#include "terminal.h"

namespace kvant::app {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string grid, database;
  sweep::GridFiles files;
  int threads = 0;
  bool dry_run = false, json = false;
};

/// How often the user has asked to stop. A signal handler can reach nothing but a global.
std::atomic<int> stop_requests{0};
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void on_stop(int signal) { stop_requests += signal == SIGINT ? 1 : 2; }

/// Ctrl-C ends the sweep when what is being measured is done; a second one, or SIGTERM, at once.
sweep::Stop asked_to_stop() {
  static std::atomic<bool> told{false};
  const int requests = stop_requests;
  if (requests == 0) return sweep::Stop::no;
  if (requests == 1 && !told.exchange(true)) {
    write_stderr("\nfinishing what is being measured; Ctrl-C again stops at once\n");
  }
  return requests == 1 ? sweep::Stop::soon : sweep::Stop::now;
}

void listen_to_signals() {
  struct sigaction action {};
  action.sa_handler = on_stop;
  action.sa_flags = SA_RESTART;
  for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
}

/// A grid and its experiments.
struct Sweep {
  explicit Sweep(const Options& options)
      : grid(sweep::read_grid(options.grid, options.files)),
        hashes(sweep::read_hashes(grid)),
        groups(sweep::expand(grid, hashes, name(active_isa()))) {}

  bool run(sweep::Ledger& ledger, int threads, const ProgressSink& progress) const {
    sweep::RunOptions settings;
    settings.laboratory = {threads, active_isa(), KVANT_VERSION};
    settings.together = grid.together;
    settings.stop = asked_to_stop;
    settings.progress = progress;
    return sweep::run(grid, hashes, groups, ledger, settings);
  }

  sweep::Grid grid;
  sweep::Hashes hashes;
  std::vector<sweep::Group> groups;
};

/// Cells in all, and how many of them are done. Cells that a grid has twice (of two files with the same content)
/// count twice.
struct Count {
  std::size_t cells = 0, done = 0;
};

Count count(const Sweep& work, const std::unordered_set<std::string>& finished) {
  Count counts;
  for (const sweep::Group& group : work.groups) {
    if (group.kind == sweep::kChannels) continue;
    counts.cells += group.cells.size();
    for (const sweep::Cell& cell : group.cells) counts.done += finished.contains(cell.key) ? 1 : 0;
  }
  return counts;
}

/// What a database holds; nothing where there is none yet.
std::unordered_set<std::string> finished_units(const std::string& database) {
  return std::filesystem::exists(database) ? sweep::Database(database).finished() : std::unordered_set<std::string>();
}

std::string list_text(const Sweep& work, const std::unordered_set<std::string>& finished) {
  Table table({"<state", "<kind", "<model", "<text", "context", "<cache"});
  for (const sweep::Group& group : work.groups) {
    for (const sweep::Cell& cell : group.cells) {
      const bool channels = group.kind == sweep::kChannels;
      table.add({finished.contains(cell.key) ? "done" : "open", group.kind, work.grid.models[group.model].name,
                 work.grid.texts[group.text].name, channels ? "" : fmt::format("{}", group.context),
                 channels ? "" : work.grid.caches[cell.cache].text});
    }
  }
  const auto [cells, done] = count(work, finished);
  return table.text(stdout_is_terminal()) + fmt::format("\n{} cells: {} done, {} open\n", cells, done, cells - done);
}

std::string list_json(const Sweep& work, const std::unordered_set<std::string>& finished) {
  ordered_json list = ordered_json::array();
  for (const sweep::Group& group : work.groups) {
    if (group.kind == sweep::kChannels) continue;
    for (const sweep::Cell& cell : group.cells) {
      list.push_back({{"done", finished.contains(cell.key)},
                      {"kind", group.kind},
                      {"model", work.grid.models[group.model].name},
                      {"text", work.grid.texts[group.text].name},
                      {"context", group.context},
                      {"cache", work.grid.caches[cell.cache].text},
                      {"key", cell.key}});
    }
  }
  const auto [cells, done] = count(work, finished);
  const ordered_json document = {{"cells", cells}, {"done", done}, {"open", cells - done}, {"list", list}};
  return json_text(document);
}

/// What came of a sweep.
struct Outcome {
  Count before, after;
  sweep::Tally tally;
  double seconds = 0;
};

std::string outcome_text(const Options& options, const Outcome& o) {
  return fmt::format("{}: {} cells, {} done before, {} measured in {}, {} open\n", options.database, o.after.cells,
                     o.before.done, o.tally.added, format_duration(o.seconds), o.after.cells - o.after.done);
}

std::string outcome_json(const Options& options, const Outcome& o) {
  const ordered_json document = {{"database", options.database}, {"cells", o.after.cells},
                                 {"done_before", o.before.done}, {"measured", o.tally.added},
                                 {"done", o.after.done},         {"open", o.after.cells - o.after.done},
                                 {"failures", o.tally.failures}, {"seconds", o.seconds}};
  return json_text(document);
}

void list(const Options& options) {
  const Sweep work(options);
  const auto finished = finished_units(options.database);
  write_stdout(options.json ? list_json(work, finished) : list_text(work, finished));
}

void run(const Options& options) {
  sweep::Ranks ranks;
  if (options.dry_run) {
    if (ranks.first()) list(options);
    return;
  }
  listen_to_signals();
  if (!ranks.first()) {
    ranks.join([&](sweep::Ledger& ledger) { Sweep(options).run(ledger, options.threads, {}); });
    return;
  }
  const Stopwatch watch;
  const Sweep work(options);
  Outcome outcome;
  bool completed = false;
  {
    sweep::DatabaseLedger ledger(options.database, sweep::unit_weights(work.groups));
    outcome.before = count(work, finished_units(options.database));
    Progress progress("sweep", "tokens");
    completed = ranks.serve(ledger, [&] {
      return work.run(ledger, options.threads, [&](std::size_t done, std::size_t total, std::string_view text) {
        progress.update(done, total, text);
      });
    });
    outcome.tally = ledger.tally();
  }
  outcome.after = count(work, finished_units(options.database));
  outcome.seconds = watch.seconds();
  write_stdout(options.json ? outcome_json(options, outcome) : outcome_text(options, outcome));
  const sweep::Tally& tally = outcome.tally;
  if (!tally.failures.empty()) {
    const std::size_t more = tally.failures.size() - 1;
    fail(ErrorCode::invalid_argument, "{} cells failed: {}{}", tally.failed, tally.failures.front(),
         more == 0 ? "" : fmt::format(" (and {} other reasons)", more));
  }
  KVANT_CHECK(completed, ErrorCode::cancelled, "{}: stopped with {} of {} cells done; the same command goes on",
              options.database, outcome.after.done, outcome.after.cells);
}

}  // namespace

Command add_sweep(CLI::App& app) {
  CLI::App& command = add_command(
      app, "sweep", "Many measurements of a grid into one database, for kvant report",
      "What the database has already is left out, so the same command goes on after any interruption; several may "
      "share\n"
      "a database at once, and mpirun spreads one over ranks. docs/sweep.md has the grid file and the tables.\n"
      "Example: kvant sweep --grid grid.json --db results.sqlite && kvant report results.sqlite -o report.html");
  auto options = std::make_shared<Options>();
  command.add_option("--grid", options->grid, "Grid file: which caches, contexts, texts and models")
      ->required()
      ->type_name("FILE");
  command.add_option("--db", options->database, "Database of results; made where there is none")
      ->required()
      ->type_name("FILE");
  command.add_option("-m,--model", options->files.models, "Models in place of the grid's")->type_name("FILE...");
  command.add_option("-f,--file", options->files.texts, "Texts in place of the grid's")->type_name("FILE...");
  command.add_option("-t,--threads", options->threads, "Threads (default: all processors)")
      ->check(CLI::Range(1, 4096).description(""))
      ->type_name("N");
  command.add_flag("--dry-run", options->dry_run, "List what is done and what is open, and measure nothing");
  command.add_flag("--json", options->json, "Print one JSON document");
  return {&command, [options] { run(*options); }};
}

}  // namespace kvant::app
