#pragma once
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/progress.h"
#include "engine/engine.h"
#include "eval/cache_pair.h"
#include "sweep/cells.h"
#include "sweep/database.h"

namespace kvant::sweep {

/// Runs experiments. Holds the model and the text of the last ones, so that groups of the same cost no loading.
class Laboratory {
 public:
  struct Options {
    int threads = 0;  ///< 0: all processors
    Isa isa = Isa::scalar;
    std::string version;  ///< of kvant, as cells have it
  };
  /// grid and hashes must outlive this object.
  Laboratory(const Grid& grid, const Hashes& hashes, Options options);
  ~Laboratory();

  /// The results of some cells of a group, with the rows that they name. Throws what the readers, the tokenizer and
  /// eval/compare.h do, each error naming a file; invalid_argument, naming it, when a file is not what its hash says.
  Findings measure(const Group& group, std::span<const Cell> cells, const ProgressSink& progress);

 private:
  void load(const Group& group);
  // The measurements of a kind: a row for each cell, without what complete() adds.
  std::vector<CellRow> compare(const Group& group, std::span<const Cell> cells, const ProgressSink& progress);
  std::vector<CellRow> retrieve(const Group& group, std::span<const Cell> cells, const ProgressSink& progress);
  std::vector<CellRow> agree(const Group& group, std::span<const Cell> cells, const ProgressSink& progress);
  std::vector<CellRow> rows(const Group& group, std::span<const Cell> cells, const ProgressSink& progress);
  std::vector<eval::CachePair> pairs(std::span<const Cell> cells) const;
  std::vector<ChannelRow> channels(const Group& group, const ProgressSink& progress);

  const Grid& grid_;
  const Hashes& hashes_;
  Options options_;
  std::optional<std::size_t> model_;  ///< index of what is loaded
  std::string text_hash_;             ///< likewise
  std::unique_ptr<engine::Engine> engine_;
  std::string text_;
  std::vector<engine::Token> tokens_;  ///< of text_, where a kind has needed them
};

}  // namespace kvant::sweep
