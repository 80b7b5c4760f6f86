#include "codec/transform.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <complex>
#include <numbers>
#include <string_view>

#include "base/error.h"
#include "codec/head_code.h"

namespace kvant::codec {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Eigensolver = Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>;
using Eigen::Index;

constexpr std::size_t kMostDims = 512;
/// Eigenvalues below this share of the largest are raised to it.
constexpr double kLeastEigenvalue = 1e-9;

/// The matrix with `floor` times the mean of its diagonal added to the diagonal.
Matrix read_matrix(std::span<const double> values, std::size_t n, double floor, std::string_view what) {
  KVANT_CHECK(values.size() == n * n, ErrorCode::invalid_argument,
              "a transform of {} dims: a {} of {} values, expected {}", n, what, values.size(), n * n);
  double trace = 0;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      KVANT_CHECK(std::isfinite(values[i * n + j]), ErrorCode::invalid_argument,
                  "a transform of {} dims: entry [{},{}] of the {} is {}", n, i, j, what, values[i * n + j]);
    }
    trace += values[i * n + i];
  }
  KVANT_CHECK(std::isfinite(trace) && trace > 0, ErrorCode::invalid_argument,
              "a transform of {} dims: the trace of the {} is {}, expected a positive number", n, what, trace);
  Matrix matrix = Eigen::Map<const Matrix>(values.data(), static_cast<Index>(n), static_cast<Index>(n));
  matrix.diagonal().array() += floor * trace / static_cast<double>(n);
  return matrix;
}

/// Of the lower triangle.
Eigensolver decompose(const Matrix& matrix) {
  Eigensolver solver(matrix);
  KVANT_CHECK(solver.info() == Eigen::Success, ErrorCode::invalid_argument,
              "a transform of {} dims: its eigenvalues were not found", matrix.rows());
  return solver;
}

Eigen::VectorXd raised(const Eigen::VectorXd& eigenvalues) {
  return eigenvalues.cwiseMax(kLeastEigenvalue * eigenvalues.maxCoeff());
}

/// As bf16, with rows of zeros up to coded_dims.
std::vector<Bf16> round_rows(const Matrix& matrix) {
  const auto n = static_cast<std::size_t>(matrix.rows());
  std::vector<Bf16> rounded(coded_dims(n) * n, Bf16{0});
  std::transform(matrix.data(), matrix.data() + matrix.size(), rounded.begin(),
                 [](double x) { return to_bf16(static_cast<float>(x)); });
  return rounded;
}

/// Mean of e^(i w m) over m = 0 .. count - 1: the geometric sum as a ratio of sines, which is exact for the least w
/// too.
std::complex<double> mean_turn(double w, std::size_t count) {
  w = std::remainder(w, 2 * std::numbers::pi);
  if (w == 0) return 1;
  const auto n = static_cast<double>(count);
  return std::polar(std::sin(n * w / 2) / (n * std::sin(w / 2)), (n - 1) * w / 2);
}

}  // namespace

HeadTransform make_head_transform(std::span<const double> covariance, std::span<const double> metric, std::size_t n,
                                  double floor) {
  KVANT_CHECK(n > 0 && n % 2 == 0 && n <= kMostDims, ErrorCode::invalid_argument,
              "a transform of {} dims, expected an even number from 2 to {}", n, kMostDims);
  const Matrix c = read_matrix(covariance, n, floor, "covariance"), m = read_matrix(metric, n, floor, "metric");
  const Eigensolver of_metric = decompose(m);
  const Eigen::MatrixXd root = of_metric.eigenvectors() * raised(of_metric.eigenvalues()).cwiseSqrt().asDiagonal() *
                               of_metric.eigenvectors().transpose();
  const Eigensolver solver = decompose(root * c.selfadjointView<Eigen::Lower>() * root);
  // Eigen's eigenvalues rise.
  const Eigen::VectorXd energies = raised(solver.eigenvalues()).reverse();
  const double scale = std::sqrt(c.trace() / energies.cwiseSqrt().sum());
  const Matrix transform = (scale * energies.array().pow(-0.25)).matrix().asDiagonal() *
                           solver.eigenvectors().rowwise().reverse().transpose() * root;

  HeadTransform result;
  result.transform = round_rows(transform);
  Matrix rounded(transform.rows(), transform.cols());
  std::transform(result.transform.begin(), result.transform.begin() + rounded.size(), rounded.data(),
                 [](Bf16 x) { return to_float(x); });
  result.inverse = round_rows(rounded.partialPivLu().inverse().transpose());
  result.energies.assign(energies.begin(), energies.end());
  return result;
}

void average_over_positions(std::span<double> moment, std::size_t n, std::span<const double> frequencies,
                            std::size_t positions) {
  const std::size_t turning = frequencies.size(), pairs = n / 2;
  KVANT_CHECK(n % 2 == 0 && moment.size() == n * n && turning <= pairs, ErrorCode::invalid_argument,
              "moments of {} values for {} dims and {} RoPE pairs", moment.size(), n, turning);
  KVANT_CHECK(positions > 0, ErrorCode::invalid_argument, "an average over {} positions", positions);
  // With the complex value of a pair, z = re + i im, turning multiplies E[z_i conj(z_j)] by e^(i (f_i - f_j) m) and
  // E[z_i z_j] by e^(i (f_i + f_j) m) at position m. Dims that do not turn are pairs of frequency 0.
  const auto re = [&](std::size_t j) { return j < turning ? j : turning + j; };
  const auto im = [&](std::size_t j) { return j < turning ? j + turning : pairs + j; };
  const auto frequency = [&](std::size_t j) { return j < turning ? frequencies[j] : 0; };
  const auto at = [&](std::size_t i, std::size_t j) -> double& { return moment[i * n + j]; };
  for (std::size_t i = 0; i < pairs; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      const double rr = at(re(i), re(j)), ii = at(im(i), im(j)), ir = at(im(i), re(j)), ri = at(re(i), im(j));
      const auto conjugate = std::complex(rr + ii, ir - ri) * mean_turn(frequency(i) - frequency(j), positions);
      const auto plain = std::complex(rr - ii, ir + ri) * mean_turn(frequency(i) + frequency(j), positions);
      const auto set = [&](std::size_t row, std::size_t column, double twice) {
        at(row, column) = at(column, row) = twice / 2;
      };
      set(re(i), re(j), conjugate.real() + plain.real());
      set(im(i), im(j), conjugate.real() - plain.real());
      set(im(i), re(j), conjugate.imag() + plain.imag());
      set(re(i), im(j), plain.imag() - conjugate.imag());
    }
  }
}

}  // namespace kvant::codec
