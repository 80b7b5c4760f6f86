#include "calib/rate.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "codec/codebook.h"

namespace kvant::calib {
namespace {

using codec::CodePart;
using codec::QuantizerKind;
using codec::ScaleFormat;

constexpr std::size_t kStep = 32;  ///< parts are multiples of it
constexpr std::size_t kLargestGroup = 256;
constexpr int kMostLmBits = 6, kMostUniBits = 8;
constexpr int kMostLogBits = 4;  ///< above, 8-bit scales cost more than they save

/// E max |z| of n standard normal values.
double expected_peak(std::size_t n) {
  constexpr double kDelta = 1e-3, kEnd = 8;
  double sum = 0;
  for (double x = kDelta / 2; x < kEnd; x += kDelta) {
    sum += (1 - std::pow(std::erf(x / std::sqrt(2.0)), static_cast<double>(n))) * kDelta;
  }
  return sum;
}

/// Of a group of n dims, a power of two.
double group_distortion(std::size_t n, QuantizerKind kind, int bits) {
  if (kind == QuantizerKind::lm) return codec::byte_levels(codec::solve_codebook(n, bits)).distortion;
  const double step = 2 * expected_peak(n) / std::exp2(bits);
  return step * step / 12;
}

/// Costs of the parts of one head.
class Costs {
 public:
  explicit Costs(std::span<const double> energies) : tail_(energies.size() + 1) {
    sums_.push_back(0);
    for (const double e : energies) sums_.push_back(sums_.back() + std::sqrt(std::max(e, 0.0)));
    for (std::size_t i = energies.size(); i-- > 0;) tail_[i] = tail_[i + 1] + std::max(energies[i], 0.0);
  }

  /// Of leaving out the dims from `first` on: nothing spreads their error.
  double of_none(std::size_t first) const { return tail_[std::min(first, tail_.size() - 1)]; }

  /// Of the dims [first, first + dims).
  double of(std::size_t first, std::size_t dims, double distortion) const {
    const std::size_t end = sums_.size() - 1;
    const double sum = sums_[std::min(first + dims, end)] - sums_[std::min(first, end)];
    return distortion * sum * sum / static_cast<double>(dims);
  }

 private:
  std::vector<double> sums_;  ///< of the roots of the first energies
  std::vector<double> tail_;  ///< of the energies from one on
};

void add_option(std::vector<CodeOption>& options, std::vector<CodePart> parts, double cost) {
  options.push_back({std::move(parts), 0, cost});
  options.back().bytes = codec::page_bytes(options.back().parts);
}

/// One or two parts, and one that is not stored where `stored` is less than all dims.
void add_options(std::vector<CodeOption>& options, const DistortionTable& table, codec::PageSide side,
                 const Costs& costs, std::size_t stored) {
  const CodePart rest{table.dims() - stored, QuantizerKind::lm, 0, ScaleFormat::f16};
  const double lost = costs.of_none(stored);
  const auto add = [&](std::vector<CodePart> parts, double cost) {
    if (rest.dims > 0) parts.push_back(rest);
    add_option(options, std::move(parts), cost + lost);
  };
  for (std::size_t first = kStep; first <= stored; first += kStep) {
    for (const auto& [a, a_distortion] : table.codes(first).subspan(1)) {
      if (!is_fast(side, first, a.bits)) continue;
      const double cost = costs.of(0, first, a_distortion);
      if (first == stored) {
        add({a}, cost);
        continue;
      }
      for (const auto& [b, b_distortion] : table.codes(stored - first).subspan(1)) {
        if (b.bits >= a.bits || b.norm != a.norm || !is_fast(side, b.dims, b.bits)) continue;
        add({a, b}, cost + costs.of(first, b.dims, b_distortion));
      }
    }
  }
}

/// What is on the lower convex hull, by rising bytes.
std::vector<CodeOption> hull(std::vector<CodeOption> options) {
  std::stable_sort(options.begin(), options.end(), [](const CodeOption& a, const CodeOption& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.cost < b.cost;
  });
  std::vector<CodeOption> kept;
  const auto slope = [](const CodeOption& a, const CodeOption& b) {
    return (b.cost - a.cost) / static_cast<double>(b.bytes - a.bytes);
  };
  for (CodeOption& option : options) {
    if (!kept.empty() && (option.bytes == kept.back().bytes || option.cost >= kept.back().cost)) continue;
    while (kept.size() > 1 && slope(kept.end()[-2], option) <= slope(kept.end()[-2], kept.back())) kept.pop_back();
    kept.push_back(std::move(option));
  }
  return kept;
}

}  // namespace

double relative_distortion(const CodePart& part) {
  if (part.bits == 0) return 1;
  double sum = 0;
  for (std::size_t left = part.dims; left > 0;) {
    const std::size_t group = std::min(std::bit_floor(left), kLargestGroup);
    sum += group_distortion(group, part.kind, part.bits) * static_cast<double>(group);
    left -= group;
  }
  const double mean = sum / static_cast<double>(part.dims);
  return part.norm == ScaleFormat::log8 ? kLogScaleLoss * mean : mean;
}

DistortionTable::DistortionTable(std::size_t head_dim) : dims_(codec::coded_dims(head_dim)), codes_(dims_ / kStep + 1) {
  for (std::size_t dims = kStep; dims <= dims_; dims += kStep) {
    const auto add = [&](QuantizerKind kind, int bits, ScaleFormat norm) {
      const CodePart part{dims, kind, bits, norm};
      codes_[dims / kStep].emplace_back(part, relative_distortion(part));
    };
    add(QuantizerKind::lm, 0, ScaleFormat::f16);
    for (int bits = 1; bits <= kMostLmBits; ++bits) {
      if (bits <= kMostLogBits) add(QuantizerKind::lm, bits, ScaleFormat::log8);
      add(QuantizerKind::lm, bits, ScaleFormat::f16);
    }
    for (int bits = kMostLmBits + 1; bits <= kMostUniBits; ++bits) add(QuantizerKind::uni, bits, ScaleFormat::f16);
  }
}

double DistortionTable::of(const CodePart& part) const {
  for (const auto& [known, distortion] : codes(part.dims)) {
    if (known == part) return distortion;
  }
  return relative_distortion(part);
}

std::vector<CodeOption> code_options(const DistortionTable& table, codec::PageSide side,
                                     std::span<const double> energies, bool one_part) {
  const Costs costs(energies);
  std::vector<CodeOption> options;
  for (std::size_t stored = kStep; stored <= table.dims(); stored += kStep) {
    add_options(options, table, side, costs, stored);
  }
  if (one_part) std::erase_if(options, [](const CodeOption& o) { return o.parts.size() > 1; });
  return hull(std::move(options));
}

double uniform_cost(const DistortionTable& table, std::span<const double> energies, int bits) {
  const CodePart all{table.dims(), QuantizerKind::lm, bits, ScaleFormat::f16};
  return Costs(energies).of(0, all.dims, table.of(all));
}

}  // namespace kvant::calib
