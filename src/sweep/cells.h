#pragma once
#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "sweep/grid.h"

namespace kvant::sweep {

/// Hashes of all files that a grid names.
struct Hashes {
  std::vector<std::string> models, texts, prompts;  ///< model_hash and file_hash, in the grid's order
  std::map<std::string, std::string> files;         ///< of plans and permutations, by their paths
};

/// Reads them. Throws what file_hash and gguf::File::open do.
Hashes read_hashes(const Grid& grid);

/// One experiment. `key` tells everything that decides its result (docs/sweep.md), files by their hashes.
struct Cell {
  std::string key;
  std::size_t cache = 0;  ///< index in Grid::caches
};

/// Experiments that differ in their caches alone, and so have the reference in common; or, of kind kChannels, the
/// channels of a model and a text, with one unit.
struct Group {
  std::string kind;
  std::size_t model = 0, text = 0;  ///< indexes in the grid, of agreement among its prompts
  std::size_t context = 0;          ///< 0: the kind has none
  std::vector<Cell> cells;
  std::size_t cell_tokens = 0;  ///< about how many tokens one of the cells feeds to the model
};
inline constexpr const char *kCompare = "compare", *kDecode = "decode", *kRetrieval = "retrieval",
                            *kAgreement = "agreement", *kChannels = "channels";
/// Channels are those of a text's first tokens, at most so many, in windows.
inline constexpr std::size_t kChannelTokens = 8192, kChannelContext = 512;

/// The text of a group, or its prompts, and its hash.
const NamedFile& text_of(const Grid& grid, const Group& group);
const std::string& text_hash(const Hashes& hashes, const Group& group);

/// All groups of a grid, of one model after the other. `isa` is the instruction set that results are for.
std::vector<Group> expand(const Grid& grid, const Hashes& hashes, std::string_view isa);

}  // namespace kvant::sweep
