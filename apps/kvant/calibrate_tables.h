#pragma once
#include <string>

#include "codec/permutation_file.h"
#include "codec/plan.h"
#include "engine/engine.h"

namespace kvant::app {

/// One row for each layer and KV head: norms of its keys, what pair scales gain.
std::string statistics_table(engine::Engine& engine, const codec::Plan& plan, bool colour);
/// One row for each layer: its outlier concentration and its layout.
std::string tiers_table(const codec::PermutationFile& file, bool colour);

}  // namespace kvant::app
