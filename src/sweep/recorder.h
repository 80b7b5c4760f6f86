#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "base/cpu.h"
#include "engine/engine.h"
#include "eval/compare.h"
#include "sweep/cells.h"
#include "sweep/database.h"

namespace kvant::sweep {

/// Keeps comparisons that were made outside of a sweep in its database, as cells that it then finds done.
class Recorder {
 public:
  /// Opens the database. `grid` has one model, which `engine` has open, one text, which `text` holds, and one kind,
  /// compare or decode; `version` is that of kvant. Throws as Database and read_hashes do; invalid_argument, naming the
  /// file, when model or text is no longer what was read.
  Recorder(const std::string& database, Grid grid, const engine::Engine& engine, std::string_view text,
           std::string_view version);

  /// Adds the comparison of the grid's context of this index, with all of its caches; `seconds` is the time it took.
  /// What the database has already stays as it is. Throws as Database::add and check_files.
  void add(std::size_t context, const eval::CompareResult& result, double seconds);

 private:
  Database database_;
  Grid grid_;
  Hashes hashes_;
  std::vector<Group> groups_;  ///< of each context
  ModelRow model_;
  CorpusRow corpus_;
  std::string version_;
};

}  // namespace kvant::sweep
