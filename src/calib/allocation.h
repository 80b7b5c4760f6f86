#pragma once
#include <cstddef>
#include <span>
#include <vector>

#include "calib/rate.h"

namespace kvant::calib {

/// The options of one head, and what a unit of their cost is worth.
struct Choice {
  std::span<const CodeOption> options;  ///< convex, by rising bytes, at least one
  double weight = 1;                    ///< >= 0
};

/// One option for each choice so that the bytes of all add up to at most `bytes` and the weighted cost is the least:
/// from the smallest options on, the step that saves most for a byte is taken first (with convex options the optimum
/// of the Lagrangian for the bytes it uses: Shoham, Gersho, "Efficient bit allocation for an arbitrary set of
/// quantizers", 1988); at the end, smaller steps fill what is left. Ties go to the first choice. When even the smallest
/// options take more, those are returned.
std::vector<std::size_t> allocate(std::span<const Choice> choices, double bytes);

/// Of an allocation.
double total_bytes(std::span<const Choice> choices, std::span<const std::size_t> chosen);
double total_cost(std::span<const Choice> choices, std::span<const std::size_t> chosen);

}  // namespace kvant::calib
