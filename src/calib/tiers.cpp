#include "calib/tiers.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/error.h"
#include "calib/concentration.h"

namespace kvant::calib {
namespace {

[[noreturn]] void wrong(std::string_view text, std::string_view what) {
  fail(ErrorCode::invalid_argument, "tiers '{}': {}", printable(text), what);
}

double parse_percent(std::string_view text, std::string_view percent) {
  double value = 0;
  const auto [end, error] = std::from_chars(percent.data(), percent.data() + percent.size(), value);
  if (error != std::errc{} || end != percent.data() + percent.size() || !(value >= 0 && value <= 100)) {
    wrong(text, fmt::format("threshold '{}', expected 0 to 100", printable(percent)));
  }
  return value;
}

}  // namespace

std::optional<codec::FlexSpec> Tiers::of(double outlier_percent) const {
  if (all) return all;
  if (extreme && outlier_percent >= extreme->threshold) return extreme->layout;
  if (high && outlier_percent >= high->threshold) return high->layout;
  return moderate;
}

Tiers parse_tiers(std::string_view text) {
  Tiers tiers;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    const std::string_view item = text.substr(at, end - at);
    at = end + 1;
    const std::size_t equals = item.find('='), mark = item.find('@');
    if (equals == item.npos) wrong(text, fmt::format("'{}', expected NAME=flex:S:H:L:JH:JL", printable(item)));
    const std::string_view name = item.substr(0, equals);
    const codec::FlexSpec layout = codec::parse_flex_spec(item.substr(equals + 1, mark - equals - 1));
    const std::optional<double> percent =
        mark == item.npos ? std::nullopt : std::optional(parse_percent(text, item.substr(mark + 1)));
    if (name == "extreme") {
      tiers.extreme = {layout, percent.value_or(90)};
    } else if (name == "high") {
      tiers.high = {layout, percent.value_or(60)};
    } else if (name != "moderate" && name != "all") {
      wrong(text, fmt::format("unknown tier '{}', expected one of extreme high moderate all", printable(name)));
    } else {
      if (percent) wrong(text, fmt::format("tier '{}' has no threshold", name));
      (name == "all" ? tiers.all : tiers.moderate) = layout;
    }
  }
  return tiers;
}

codec::PermutationFile make_permutation_file(const codec::Plan& plan, const Tiers& tiers) {
  KVANT_CHECK(plan.model.head_dim == codec::kFlexDims, ErrorCode::invalid_argument,
              "head_dim {}, flex layouts are for {}", plan.model.head_dim, codec::kFlexDims);
  codec::PermutationFile file;
  file.layers = plan.model.layers;
  file.kv_heads = plan.model.kv_heads;
  file.head_dim = plan.model.head_dim;
  file.layer_map.resize(file.layers);
  std::iota(file.layer_map.begin(), file.layer_map.end(), 0);
  for (std::size_t layer = 0; layer < file.layers; ++layer) {
    double outliers = 0, total = 0;
    for (std::size_t head = 0; head < file.kv_heads; ++head) {
      const std::vector<double> energies = rotated_moments(plan, layer, head);
      std::vector<std::uint8_t> order(energies.size());
      std::iota(order.begin(), order.end(), std::uint8_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](std::uint8_t a, std::uint8_t b) { return energies[a] > energies[b]; });
      for (std::size_t i = 0; i < order.size(); ++i) {
        total += energies[order[i]];
        if (i < codec::kFlexOutliers) outliers += energies[order[i]];
      }
      file.permutations.insert(file.permutations.end(), order.begin(), order.end());
    }
    const double percent = total > 0 ? 100 * outliers / total : 0;
    file.layouts.push_back(tiers.of(percent));
    file.types.push_back({file.layouts.back() ? codec::PermutationFile::kTypeFlex : codec::PermutationFile::kTypeF16,
                          static_cast<float>(percent)});
  }
  return file;
}

}  // namespace kvant::calib
