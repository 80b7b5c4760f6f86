#include "calib/allocation.h"

#include <queue>

namespace kvant::calib {
namespace {

/// To the next option of a choice.
struct Step {
  double gain;  ///< weighted cost saved for each byte
  std::size_t choice;

  bool operator<(const Step& other) const {
    return gain != other.gain ? gain < other.gain : choice > other.choice;  // the greatest is taken first
  }
};

}  // namespace

std::vector<std::size_t> allocate(std::span<const Choice> choices, double bytes) {
  std::vector<std::size_t> chosen(choices.size(), 0);
  double left = bytes - total_bytes(choices, chosen);
  const auto step_bytes = [&](std::size_t c) {
    const auto options = choices[c].options;
    return static_cast<double>(options[chosen[c] + 1].bytes - options[chosen[c]].bytes);
  };
  std::priority_queue<Step> steps;
  const auto push = [&](std::size_t c) {
    const auto options = choices[c].options;
    if (chosen[c] + 1 == options.size()) return;
    const double saved = options[chosen[c]].cost - options[chosen[c] + 1].cost;
    steps.push({choices[c].weight * saved / step_bytes(c), c});
  };
  for (std::size_t c = 0; c < choices.size(); ++c) push(c);
  while (!steps.empty()) {
    const std::size_t c = steps.top().choice;
    steps.pop();
    if (step_bytes(c) > left) continue;
    left -= step_bytes(c);
    ++chosen[c];
    push(c);
  }
  return chosen;
}

double total_bytes(std::span<const Choice> choices, std::span<const std::size_t> chosen) {
  double sum = 0;
  for (std::size_t c = 0; c < choices.size(); ++c) sum += static_cast<double>(choices[c].options[chosen[c]].bytes);
  return sum;
}

double total_cost(std::span<const Choice> choices, std::span<const std::size_t> chosen) {
  double sum = 0;
  for (std::size_t c = 0; c < choices.size(); ++c) sum += choices[c].weight * choices[c].options[chosen[c]].cost;
  return sum;
}

}  // namespace kvant::calib
