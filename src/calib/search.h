#pragma once
#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "base/progress.h"
#include "calib/curves.h"
#include "codec/plan.h"
#include "engine/engine.h"

namespace kvant::calib {

/// What a plan is to reach. Exactly one of bits, memory and max_kld; v_bits only with bits.
struct Goal {
  std::optional<double> bits;    ///< of a value on average: of K and V together, or, with v_bits, of K
  std::optional<double> v_bits;  ///< of V; 16: V stays in f16
  std::optional<double> memory;  ///< bytes of one sequence of `context` tokens, the plan's constants included
  std::size_t context = 0;       ///< of memory
  std::optional<double> max_kld;

  bool codes_values() const { return !v_bits || *v_bits < 16; }
  std::string text() const;
};

/// Throws invalid_argument, naming what is wrong, when a goal is not as described or a number is out of range.
void check_goal(const Goal& goal);

struct SearchOptions {
  Goal goal;
  /// Positions that transforms of keys are made for; 0: the context of the goal, else those of the plan, else what the
  /// model was trained for, at most 32768.
  std::size_t positions = 0;
  Without without = {};
  /// Measure what an error in each layer costs, and try how far to follow it; without text, only what the plan holds
  /// from earlier is used.
  std::span<const engine::Token> measure_text = {}, refine_text = {};
  /// Tokens fed to the model for `what` ("sensitivities", "candidates").
  std::function<void(std::size_t done, std::size_t total, std::string_view what)> progress = {};
  /// After each step of the measurement, with what is known: to be resumed from.
  std::function<void(const codec::Plan&)> checkpoint = {};
};

/// Chooses codes for the goal and puts them, and measured sensitivities, into a plan of statistics.
///
///  1. For each head the transform and the convex set of options (calib/curves.h).
///  2. A first allocation in which each layer's error counts the same.
///  3. For each layer and side that was not measured before: the mean divergence of the output (KLD against an f16
///     cache) with only it coded so, less that of an f32 cache, the noise floor; over its predicted cost that is its
///     sensitivity s. MSE alone misleads.
///  4. Allocation with the weights s^g / c^(1-g), c the cost of the first allocation, for g = 1, 1/2 and 0; the one
///     with the least divergence on refine_text is kept (that of the plan without such text).
///  5. The same of windows: what 4 to 64 tokens in f16 take of the budget at `positions` tokens, codes do without.
///  6. max_kld: the smallest number of bits found by bisection whose divergence on refine_text, plus twice its
///     standard error, stays below.
///
/// The same plan for the same input on every run. Throws invalid_argument when the goal is below what the smallest
/// codes take or, max_kld, out of reach of the largest, naming both values; format when activations are not finite.
void search(engine::Engine& engine, codec::Plan& plan, const SearchOptions& options);

/// Compares the planned cache with an f16 cache over a text in windows of `context` tokens and adds the certificate.
void certify(engine::Engine& engine, codec::Plan& plan, std::span<const engine::Token> text, std::size_t context,
             const std::string& corpus, const ProgressSink& progress);

}  // namespace kvant::calib
