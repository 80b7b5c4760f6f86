#include "sweep/runner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/error.h"

namespace kvant::sweep {
namespace {

/// How long to wait before looking again whether others are done.
constexpr auto kLook = std::chrono::milliseconds(200);

std::vector<std::string> keys_of(std::span<const Cell> cells) {
  std::vector<std::string> keys;
  for (const Cell& cell : cells) keys.push_back(cell.key);
  return keys;
}

bool contains(std::span<const std::string> units, const std::string& unit) {
  return std::find(units.begin(), units.end(), unit) != units.end();
}

/// Takes the cells out whose units are in the list.
void take_out(std::vector<Cell>& cells, std::span<const std::string> units) {
  std::erase_if(cells, [&](const Cell& cell) { return contains(units, cell.key); });
}

class Run {
 public:
  Run(const Grid& grid, const Hashes& hashes, std::vector<Group> groups, Ledger& ledger, const RunOptions& options)
      : grid_(grid),
        groups_(std::move(groups)),
        ledger_(ledger),
        options_(options),
        laboratory_(grid, hashes, options.laboratory) {
    for (const auto& [unit, weight] : unit_weights(groups_)) total_ += weight;
  }

  bool run() {
    for (;;) {
      bool open = false, worked = false;
      for (Group& group : groups_) {
        while (!group.cells.empty()) {
          if (asked() != Stop::no) return false;
          if (!step(group)) break;
          worked = true;
        }
        open |= !group.cells.empty();
      }
      if (!open) return true;
      if (!worked) wait();
    }
  }

 private:
  Stop asked() const { return options_.stop ? options_.stop() : Stop::no; }

  /// Measures some cells of a group; false when none was to be had.
  bool step(Group& group) {
    const Claimed claimed = ledger_.claim(keys_of(group.cells), options_.together);
    take_out(group.cells, claimed.settled);
    if (claimed.taken.empty()) return false;
    std::vector<Cell> cells;
    for (const Cell& cell : group.cells) {
      if (contains(claimed.taken, cell.key)) cells.push_back(cell);
    }
    Findings findings;
    try {
      findings = laboratory_.measure(group, cells, watch(group, cells.size()));
    } catch (const Error& e) {
      if (e.code() == ErrorCode::cancelled) throw;
      ledger_.fail(claimed.taken, e.what());
      take_out(group.cells, claimed.taken);
      return true;
    }
    ledger_.add(findings, claimed.taken);
    take_out(group.cells, claimed.taken);
    return true;
  }

  /// Shows the progress of some cells as part of the whole, and ends them when asked to.
  ProgressSink watch(const Group& group, std::size_t cells) {
    const auto weight = static_cast<double>(cells * group.cell_tokens);
    return [this, weight, text = describe(group)](std::size_t done, std::size_t total, std::string_view) {
      if (asked() == Stop::now) fail(ErrorCode::cancelled, "stopped");
      const double share = total == 0 ? 0 : static_cast<double>(done) / static_cast<double>(total);
      show(ledger_.settled_weight() + static_cast<std::size_t>(share * weight), text);
    };
  }

  std::string describe(const Group& group) const {
    std::string text = fmt::format("{} {}", group.kind, grid_.texts[group.text].path.filename().string());
    if (group.context > 0) text += fmt::format(" -c {}", group.context);
    return text;
  }

  void show(std::size_t done, std::string_view text) const {
    if (options_.progress) options_.progress(std::min(done, total_), total_, text);
  }

  void wait() const {
    show(ledger_.settled_weight(), "waiting for other processes");
    std::this_thread::sleep_for(kLook);
  }

  const Grid& grid_;
  std::vector<Group> groups_;  ///< with the cells that are still open
  Ledger& ledger_;
  const RunOptions& options_;
  Laboratory laboratory_;
  std::size_t total_ = 0;
};

}  // namespace

std::unordered_map<std::string, std::size_t> unit_weights(std::span<const Group> groups) {
  std::unordered_map<std::string, std::size_t> weights;
  for (const Group& group : groups) {
    for (const Cell& cell : group.cells) weights.emplace(cell.key, group.cell_tokens);
  }
  return weights;
}

bool run(const Grid& grid, const Hashes& hashes, std::vector<Group> groups, Ledger& ledger, const RunOptions& options) {
  try {
    return Run(grid, hashes, std::move(groups), ledger, options).run();
  } catch (const Error& e) {
    if (e.code() == ErrorCode::cancelled) return false;
    throw;
  }
}

}  // namespace kvant::sweep
