#include "codec/codebook.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>

#include "base/error.h"

namespace kvant::codec {
namespace {

constexpr std::size_t kNodes = 8;

struct Rule {
  std::array<double, kNodes> node, weight;
};

/// Gauss-Legendre rule on [-1, 1]: nodes are the roots of the Legendre polynomial P, found by Newton steps.
Rule gauss_legendre() {
  Rule rule{};
  for (std::size_t i = 0; i < kNodes; ++i) {
    double x = std::cos(std::numbers::pi * (static_cast<double>(i) + 0.75) / (kNodes + 0.5));
    double slope = 0;
    for (int iteration = 0; iteration < 8; ++iteration) {
      double p = x, previous = 1;  // P_k and P_(k-1)
      for (std::size_t k = 2; k <= kNodes; ++k) {
        const double kk = static_cast<double>(k);
        const double next = ((2 * kk - 1) * x * p - (kk - 1) * previous) / kk;
        previous = p;
        p = next;
      }
      slope = static_cast<double>(kNodes) * (x * p - previous) / (x * x - 1);
      x -= p / slope;
    }
    rule.node[i] = x;
    rule.weight[i] = 2 / ((1 - x * x) * slope * slope);
  }
  return rule;
}

/// Integrals over an interval: of f, of (x - c) f and of (x - c)^2 f.
struct Moments {
  double mass = 0, first = 0, second = 0;
};

/// The density f of one coordinate. With x = sin(phi) it becomes cos(phi)^(n-2), which is smooth up to the ends and
/// close to a normal density of deviation 1/sqrt(n): 8 Gauss nodes per deviation are exact to rounding. Moments are
/// taken about a centre inside the interval, so that narrow cells lose no digits.
class Density {
 public:
  explicit Density(std::size_t dimension) : n_(static_cast<double>(dimension)), rule_(gauss_legendre()) {
    factor_ = 0.5 / moments(0, 1, 0).mass;
  }

  double operator()(double x) const { return factor_ * std::exp((n_ - 3) / 2 * std::log1p(-x * x)); }

  Moments moments(double from, double to, double centre) const {
    const double begin = std::asin(from), width = std::asin(to) - begin;
    const double pieces = std::max(1.0, std::ceil(width * std::sqrt(n_)));
    const double half = width / pieces / 2;
    Moments sum;
    for (double piece = 0; piece < pieces; ++piece) {
      const double middle = begin + (2 * piece + 1) * half;
      for (std::size_t i = 0; i < kNodes; ++i) {
        const double phi = middle + half * rule_.node[i];
        const double weight = factor_ * half * rule_.weight[i] * std::exp((n_ - 2) * std::log(std::cos(phi)));
        const double offset = std::sin(phi) - centre;
        sum.mass += weight;
        sum.first += weight * offset;
        sum.second += weight * offset * offset;
      }
    }
    return sum;
  }

 private:
  double n_;
  Rule rule_;
  double factor_ = 1;
};

void check_range(std::size_t dimension, int bits) {
  KVANT_CHECK(dimension >= kMinCodebookDimension && dimension <= kMaxCodebookDimension, ErrorCode::invalid_argument,
              "codebook: dimension {}, expected {} to {}", dimension, kMinCodebookDimension, kMaxCodebookDimension);
  KVANT_CHECK(bits >= 1 && bits <= kMaxCodebookBits, ErrorCode::invalid_argument, "codebook: {} bits, expected 1 to {}",
              bits, kMaxCodebookBits);
}

/// Bounds 0 = t_0 < t_1 < .. < t_m = 1 of the cells of m positive levels.
std::vector<double> cell_bounds(std::span<const double> positive) {
  std::vector<double> bounds(positive.size() + 1, 0.0);
  for (std::size_t i = 1; i < positive.size(); ++i) bounds[i] = (positive[i - 1] + positive[i]) / 2;
  bounds.back() = 1;
  return bounds;
}

/// Positive levels at the quantiles of f^(1/3), nearly optimal when there are many (Panter and Dite 1951). In phi this
/// density is cos(phi)^(n/3), of deviation sqrt(3/n).
std::vector<double> companding_levels(std::size_t dimension, std::size_t count) {
  const double n = static_cast<double>(dimension);
  const std::size_t points = 1024 + 4 * count;
  const double width = std::min(std::numbers::pi / 2, 8 * std::sqrt(3 / n)) / static_cast<double>(points);
  std::vector<double> cumulative(points + 1, 0.0);
  for (std::size_t i = 0; i < points; ++i) {
    const double phi = (static_cast<double>(i) + 0.5) * width;
    cumulative[i + 1] = cumulative[i] + std::exp(n / 3 * std::log(std::cos(phi)));
  }
  std::vector<double> levels(count);
  std::size_t at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double target = cumulative.back() * (static_cast<double>(i) + 0.5) / static_cast<double>(count);
    while (cumulative[at + 1] < target) ++at;
    const double part = (target - cumulative[at]) / (cumulative[at + 1] - cumulative[at]);
    levels[i] = std::sin((static_cast<double>(at) + part) * width);
  }
  return levels;
}

/// The Newton step for the conditions level_i - mean of cell_i = 0: solves J step = residual, where J is tridiagonal
/// because a cell's mean depends on its own level and, through its two bounds, on the neighbouring ones.
std::vector<double> newton_step(const Density& density, std::span<const double> levels) {
  const std::size_t count = levels.size();
  const std::vector<double> bounds = cell_bounds(levels);
  std::vector<double> step(count), above(count);  // right-hand side and superdiagonal after elimination
  for (std::size_t i = 0; i < count; ++i) {
    const double centre = (bounds[i] + bounds[i + 1]) / 2;
    const Moments cell = density.moments(bounds[i], bounds[i + 1], centre);
    const double shift = cell.first / cell.mass, mean = centre + shift;
    const double lower = i == 0 ? 0 : -density(bounds[i]) * (mean - bounds[i]) / (2 * cell.mass);
    const double upper = i + 1 == count ? 0 : -density(bounds[i + 1]) * (bounds[i + 1] - mean) / (2 * cell.mass);
    const double previous_above = i == 0 ? 0 : above[i - 1], previous_step = i == 0 ? 0 : step[i - 1];
    const double pivot = 1 + lower + upper - lower * previous_above;
    above[i] = upper / pivot;
    step[i] = ((levels[i] - centre) - shift - lower * previous_step) / pivot;
  }
  for (std::size_t i = count - 1; i-- > 0;) step[i] -= above[i] * step[i + 1];
  return step;
}

bool ascending_inside(std::span<const double> levels) {
  return levels.front() > 0 && levels.back() < 1 &&
         std::adjacent_find(levels.begin(), levels.end(), std::greater_equal<>()) == levels.end();
}

std::vector<double> optimal_positive_levels(const Density& density, std::size_t dimension, std::size_t count) {
  std::vector<double> levels = companding_levels(dimension, count), next(count);
  double last = std::numeric_limits<double>::infinity();
  for (int iteration = 0; iteration < 100; ++iteration) {
    const std::vector<double> step = newton_step(density, levels);
    double largest = 0;
    for (const double s : step) largest = std::max(largest, std::abs(s));
    if (largest < 1e-12 && largest >= last) break;  // converged as far as rounding allows
    last = largest;
    double damping = 1;
    do {
      for (std::size_t i = 0; i < count; ++i) next[i] = levels[i] - damping * step[i];
      damping /= 2;
    } while (!ascending_inside(next));
    levels = next;
  }
  return levels;
}

/// All levels from the positive ones.
std::vector<double> mirrored(std::span<const double> positive) {
  std::vector<double> levels;
  levels.reserve(2 * positive.size());
  for (std::size_t i = positive.size(); i-- > 0;) levels.push_back(-positive[i]);
  levels.insert(levels.end(), positive.begin(), positive.end());
  return levels;
}

}  // namespace

Codebook solve_codebook(std::size_t dimension, int bits) {
  check_range(dimension, bits);
  const Density density(dimension);
  Codebook book{dimension, bits, {}, {}, 0};
  book.levels = mirrored(optimal_positive_levels(density, dimension, std::size_t{1} << (bits - 1)));
  for (std::size_t i = 1; i < book.levels.size(); ++i) {
    book.thresholds.push_back((book.levels[i - 1] + book.levels[i]) / 2);
  }
  book.distortion = distortion_of(dimension, book.levels);
  return book;
}

ByteLevels byte_levels(const Codebook& codebook) {
  check_range(codebook.dimension, codebook.bits);
  KVANT_CHECK(codebook.bits <= kMaxByteLevelBits, ErrorCode::invalid_argument,
              "codebook: {} bits do not fit levels of one byte (at most {})", codebook.bits, kMaxByteLevelBits);
  const std::size_t count = codebook.levels.size() / 2;
  const std::span<const double> exact = std::span(codebook.levels).subspan(count);
  const Density density(codebook.dimension);
  const std::vector<double> bounds = cell_bounds(exact);
  std::vector<double> mass(count);
  for (std::size_t i = 0; i < count; ++i) mass[i] = density.moments(bounds[i], bounds[i + 1], exact[i]).mass;

  // Moving level i by d adds mass_i d^2 to the error, since the exact level is its cell's mean. So for each rounding
  // the best unit is a least-squares fit. The largest rounded level is tried from 127 downwards.
  std::vector<double> best(count), rounded(count);
  double best_unit = 0, least = std::numeric_limits<double>::infinity();
  for (double top = 127.49; top >= static_cast<double>(count); top -= 0.01) {
    double kk = 0, kc = 0, cc = 0, previous = 0;
    for (std::size_t i = 0; i < count; ++i) {
      rounded[i] = std::max(previous + 1, std::round(exact[i] / exact.back() * top));
      previous = rounded[i];
      kk += mass[i] * rounded[i] * rounded[i];
      kc += mass[i] * rounded[i] * exact[i];
      cc += mass[i] * exact[i] * exact[i];
    }
    const double added = cc - kc * kc / kk;
    if (rounded.back() <= 127 && added < least * (1 - 1e-6) - 1e-15) {
      least = added;
      best = rounded;
      best_unit = kc / kk;
    }
  }
  ByteLevels result{{}, best_unit, 0};
  std::vector<double> values;
  for (const double level : mirrored(best)) {
    result.levels.push_back(static_cast<std::int8_t>(level));
    values.push_back(level * best_unit);
  }
  result.distortion = distortion_of(codebook.dimension, values);
  return result;
}

UniformGrid solve_uniform_grid(std::size_t dimension, int bits) {
  check_range(dimension, bits);
  const Density density(dimension);
  const std::size_t count = std::size_t{1} << (bits - 1);
  // The derivative of the distortion by the step has the sign of -slope(step); bounds contribute nothing, since the
  // error is continuous across them.
  const auto slope = [&](double step) {
    double sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
      const double index = static_cast<double>(i), level = (index + 0.5) * step;
      const double to = i + 1 == count ? 1 : (index + 1) * step;
      sum += (index + 0.5) * density.moments(index * step, to, level).first;
    }
    return sum;
  };
  double low = 0, high = 1 / (static_cast<double>(count) - 0.5);  // at `high` the last level is 1
  while (high - low > 1e-15 * high) {
    const double middle = (low + high) / 2;
    (slope(middle) > 0 ? low : high) = middle;
  }
  std::vector<double> positive(count);
  for (std::size_t i = 0; i < count; ++i) positive[i] = (static_cast<double>(i) + 0.5) * high;
  return {high, distortion_of(dimension, mirrored(positive))};
}

double distortion_of(std::size_t dimension, std::span<const double> levels) {
  const Density density(dimension);
  double sum = 0, from = -1;
  for (std::size_t i = 0; i < levels.size(); ++i) {
    const double to = i + 1 == levels.size() ? 1 : (levels[i] + levels[i + 1]) / 2;
    sum += density.moments(from, to, levels[i]).second;
    from = to;
  }
  return static_cast<double>(dimension) * sum;
}

double coordinate_probability(std::size_t dimension, double x) { return 2 * Density(dimension).moments(0, x, 0).mass; }

}  // namespace kvant::codec
