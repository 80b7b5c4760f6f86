#pragma once
#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/cache_pair.h"

namespace kvant::sweep {

/// A file as the grid names it, and where it is.
struct NamedFile {
  std::string name;
  std::filesystem::path path;
  friend bool operator==(const NamedFile&, const NamedFile&) = default;
};

/// A cache whose specs name files as the grid does, and the same with the files' paths.
struct GridCache {
  std::string text;  ///< as the grid has it
  eval::CachePair named, pair;
  friend bool operator==(const GridCache&, const GridCache&) = default;
};

/// A cache of a command line, whose files are named by their paths: plan:FILE where it is what that file stands for
/// (eval::plan_pair).
GridCache grid_cache(const eval::CachePair& pair);

/// A side as tables have it: plan:FILE for one that a plan codes whole.
std::string side_text(const GridCache& cache, codec::PageSide side);

/// What `retrieval` asks (eval/retrieval.h).
struct GridRetrieval {
  std::vector<double> depths = {0, 25, 50, 75, 100};  ///< percent
  std::vector<std::size_t> keys = {1};
  std::size_t values = 1, trials = 20, seed = 1;
  friend bool operator==(const GridRetrieval&, const GridRetrieval&) = default;
};

/// What `agreement` continues (eval/agreement.h).
struct GridAgreement {
  std::vector<NamedFile> prompts;
  std::size_t tokens = 128;
  friend bool operator==(const GridAgreement&, const GridAgreement&) = default;
};

/// The experiments of a sweep: every kind for every model, text, context and cache.
struct Grid {
  std::string file;
  std::vector<NamedFile> models, texts;
  std::vector<std::size_t> contexts;
  std::vector<GridCache> caches;
  std::vector<std::string> kinds = {"compare"};  ///< "compare", "decode", "retrieval", "agreement"
  std::size_t chunks = 0;                        ///< windows of each text; 0: all
  std::string reference = "f16", precision = "reference";
  bool channels = false;     ///< also keep the key channels of every model and text
  std::size_t together = 8;  ///< caches that share a run of the reference, at most
  GridRetrieval retrieval;
  GridAgreement agreement;
  friend bool operator==(const Grid&, const Grid&) = default;
};

/// Files that take the place of the grid's own, relative to the working folder; none: those of the grid.
struct GridFiles {
  std::vector<std::string> models, texts;
};

/// Reads a grid (docs/sweep.md). Relative paths are relative to `folder`. Throws format or invalid_argument, in one
/// line that starts with `name` and the key, for what is no JSON, unknown and missing keys, wrong types, empty lists,
/// values out of range and entries that stand twice; io for files that cannot be read; what parse_cache_list throws.
Grid parse_grid(std::string_view json, const std::string& name, const std::filesystem::path& folder,
                const GridFiles& instead = {});
/// The same with a file, whose folder paths are relative to.
Grid read_grid(const std::string& path, const GridFiles& instead = {});

}  // namespace kvant::sweep
