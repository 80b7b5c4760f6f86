#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "eval/agreement.h"
#include "eval/compare.h"
#include "eval/retrieval.h"
#include "sweep/cells.h"
#include "sweep/database.h"

namespace kvant::sweep {

/// What a comparison, or an agreement, says of a cache, as rows (docs/sweep.md).
std::vector<MetricRow> compare_metrics(const eval::CacheResult& result, double reference_perplexity);
std::vector<MetricRow> agreement_metrics(const eval::AgreementResult& result);

// A row for each cache of a measurement, in its order, without what complete() adds.
std::vector<CellRow> compare_rows(const eval::CompareResult& result, const std::string& reference);
std::vector<CellRow> retrieval_rows(std::span<const eval::RetrievalResult> results,
                                    const eval::RetrievalOptions& options);
std::vector<CellRow> agreement_rows(const eval::Agreement& result);

/// Cells of a group that were measured together.
struct Measured {
  const Grid& grid;
  const Hashes& hashes;
  const Group& group;
  std::span<const Cell> cells;
};

/// Gives the rows of these cells what is alike for all kinds: key, names and hashes, sides, command, version, an even
/// share of `seconds`, and the time.
void complete(std::vector<CellRow>& rows, const Measured& measured, double seconds, std::string_view version);

/// The plans that the cells go by, each once.
std::vector<PlanRow> plan_rows(const Measured& measured);

/// Throws invalid_argument, naming the file, when a plan or a permutation is no longer what its hash says.
void check_files(const Measured& measured);

}  // namespace kvant::sweep
