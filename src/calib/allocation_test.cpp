#include "calib/allocation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/random.h"

namespace kvant::calib {
namespace {

/// Convex options with random steps.
std::vector<CodeOption> random_options(Random& random, std::size_t count) {
  std::vector<CodeOption> options;
  std::vector<double> slopes(count);
  for (double& s : slopes) s = 0.1 + random.uniform();
  std::sort(slopes.rbegin(), slopes.rend());
  std::size_t bytes = 8;
  double cost = 100;
  for (const double slope : slopes) {
    options.push_back({{}, bytes, cost});
    const std::size_t step = 8 * (1 + static_cast<std::size_t>(4 * random.uniform()));
    bytes += step;
    cost -= slope * static_cast<double>(step) / 10;
  }
  return options;
}

double best_cost(std::span<const Choice> choices, double bytes) {
  if (choices.empty()) return bytes >= 0 ? 0 : std::numeric_limits<double>::infinity();
  double best = std::numeric_limits<double>::infinity();
  for (const CodeOption& option : choices.front().options) {
    const double rest = best_cost(choices.subspan(1), bytes - static_cast<double>(option.bytes));
    best = std::min(best, choices.front().weight * option.cost + rest);
  }
  return best;
}

TEST(Allocation, IsWithinOneStepOfTheBest) {
  Random random(3);
  for (int trial = 0; trial < 50; ++trial) {
    std::vector<std::vector<CodeOption>> options;
    std::vector<Choice> choices;
    for (int c = 0; c < 4; ++c) options.push_back(random_options(random, 5));
    for (const auto& o : options) choices.push_back({o, 0.2 + random.uniform()});
    double largest_step = 0;
    for (const Choice& c : choices) {
      for (std::size_t i = 1; i < c.options.size(); ++i) {
        largest_step = std::max(largest_step, c.weight * (c.options[i - 1].cost - c.options[i].cost));
      }
    }
    const double budget = 60 + 200 * random.uniform();
    const std::vector<std::size_t> chosen = allocate(choices, budget);
    EXPECT_LE(total_bytes(choices, chosen), budget);
    const double best = best_cost(choices, budget), cost = total_cost(choices, chosen);
    EXPECT_GE(cost, best - 1e-9);
    EXPECT_LE(cost, best + largest_step);
    // At the bytes that it uses before it fills up it is the optimum of the Lagrangian: no budget that small does
    // better.
    const std::vector<std::size_t> again = allocate(choices, total_bytes(choices, chosen));
    EXPECT_EQ(again, chosen);
  }
}

TEST(Allocation, FollowsTheWeights) {
  const std::vector<CodeOption> options{{{}, 10, 8}, {{}, 20, 4}, {{}, 30, 2}};
  const std::vector<Choice> choices{{options, 1}, {options, 10}};
  EXPECT_EQ(allocate(choices, 40), (std::vector<std::size_t>{0, 2}));
  EXPECT_EQ(allocate(choices, 50), (std::vector<std::size_t>{1, 2}));
  EXPECT_EQ(allocate(choices, 1000), (std::vector<std::size_t>{2, 2}));
}

TEST(Allocation, TiesGoToTheFirst) {
  const std::vector<CodeOption> options{{{}, 10, 8}, {{}, 20, 4}};
  const std::vector<Choice> choices{{options, 1}, {options, 1}};
  EXPECT_EQ(allocate(choices, 30), (std::vector<std::size_t>{1, 0}));
}

TEST(Allocation, TheLeastWhereEvenThatIsTooMuch) {
  const std::vector<CodeOption> options{{{}, 10, 8}, {{}, 20, 4}};
  const std::vector<Choice> choices{{options, 1}, {options, 1}};
  EXPECT_EQ(allocate(choices, 5), (std::vector<std::size_t>{0, 0}));
}

}  // namespace
}  // namespace kvant::calib
