#pragma once
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/progress.h"
#include "sweep/ledger.h"
#include "sweep/measure.h"

namespace kvant::sweep {

/// How a sweep is asked to end early: not; when what is being measured is written; at once.
enum class Stop { no, soon, now };

struct RunOptions {
  Laboratory::Options laboratory;
  std::size_t together = 8;  ///< cells of a group that are measured, and written, at a time
  /// Asked between groups, and while they run as often as they show progress; empty: never.
  std::function<Stop()> stop = {};
  /// Counts weights of units (tokens, about): those that are settled, and a share of what is being measured.
  ProgressSink progress = {};
};

/// Weight of each unit.
std::unordered_map<std::string, std::size_t> unit_weights(std::span<const Group> groups);

/// Measures what is open until all units are settled, whether by this process or by others that share the database,
/// for which it waits in the end. Cells that cannot be measured fail, and the others go on. Returns false when it was
/// stopped before all was settled. Throws what the ledger does.
bool run(const Grid& grid, const Hashes& hashes, std::vector<Group> groups, Ledger& ledger, const RunOptions& options);

}  // namespace kvant::sweep
