#include "kernels/anchor/anchor.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/checked.h"
#include "base/error.h"
#include "kernels/simd/target.h"

namespace kvant::kernels {
namespace {

constexpr double kPage = 64, kMiddle = 31.5;
constexpr double kFitError = 3e-8;

/// The polynomial of degree N - 1 through N points, by Newton's divided differences, as coefficients of its powers.
template <std::size_t N>
std::array<double, N> polynomial_through(const std::array<double, N>& x, std::array<double, N> y) {
  for (std::size_t order = 1; order < N; ++order) {
    for (std::size_t i = N - 1; i >= order; --i) y[i] = (y[i] - y[i - 1]) / (x[i] - x[i - order]);
  }
  std::array<double, N> result{};
  for (std::size_t k = N; k-- > 0;) {  // result = result * (x - x_k) + y_k
    for (std::size_t i = N - 1; i > 0; --i) result[i] = result[i - 1] - x[k] * result[i];
    result[0] = y[k] - x[k] * result[0];
  }
  return result;
}

/// Interpolates cos(w u) and sin(w u) at the 2 N Chebyshev nodes of [-1, 1]: coefficients of u^0 .. u^(2 N - 1).
template <std::size_t N>
std::array<double, 2 * N> fit(double w) {
  std::array<double, N> squares, cosines, sines;
  for (std::size_t k = 0; k < N; ++k) {
    const double u = std::cos(std::numbers::pi * (static_cast<double>(k) + 0.5) / (2 * N));
    squares[k] = u * u;
    cosines[k] = std::cos(w * u);
    sines[k] = std::sin(w * u) / u;
  }
  const auto even = polynomial_through(squares, cosines);
  const auto odd = polynomial_through(squares, sines);
  std::array<double, 2 * N> result;
  for (std::size_t k = 0; k < N; ++k) {
    result[2 * k] = even[k];
    result[2 * k + 1] = odd[k];
  }
  return result;
}

/// Terms that a pair needs; 0: fast.
std::size_t terms_for(double theta) {
  for (const int degree : {3, 5, 7}) {
    if (theta <= AnchorAngles::slow_theta(degree)) return static_cast<std::size_t>(degree) + 1;
  }
  return 0;
}

void fill_terms(double theta, std::size_t terms, float* out, std::size_t stride) {
  const auto put = [&](const auto& coefficients) {
    for (std::size_t n = 0; n < coefficients.size(); ++n) out[n * stride] = static_cast<float>(coefficients[n]);
  };
  const double w = kMiddle * theta;
  if (terms == 4) put(fit<2>(w));
  if (terms == 6) put(fit<3>(w));
  if (terms == 8) put(fit<4>(w));
}

}  // namespace

/// With d + 1 Chebyshev nodes a real function's error is at most max |f^(d+1)| / (2^d (d + 1)!), and f here is the real
/// part of c e^{i w u}, |c| = 1, w = 31.5 theta: 2 (w / 2)^(d+1) / (d + 1)!.
double AnchorAngles::slow_theta(int degree) noexcept {
  const double order = degree + 1;
  return 2 * std::pow(kFitError / 2 * std::tgamma(order + 1), 1 / order) / kMiddle;
}

AnchorAngles::AnchorAngles(const RopeFrequencies& frequencies, std::size_t capacity)
    : pairs_(frequencies.theta.size()), padded_(round_up(pairs_, kAnchorBlock)) {
  KVANT_CHECK(pairs_ <= UINT16_MAX, ErrorCode::invalid_argument, "RoPE pairs: {}, expected at most {}", pairs_,
              UINT16_MAX);
  const std::size_t pages = capacity / 64 + (capacity % 64 != 0);
  phases_ = AlignedBuffer<float>(checked_mul(pages, 2 * padded_, "anchor phases"));
  terms_ = AlignedBuffer<float>(kAnchorTerms * padded_);
  std::fill(phases_.begin(), phases_.end(), 0.0F);
  std::fill(terms_.begin(), terms_.end(), 0.0F);
  slow_.resize(padded_);
  fast_index_.resize(padded_);
  block_terms_.resize(padded_ / kAnchorBlock);
  std::uint16_t fast = 0;
  for (std::size_t j = 0; j < pairs_; ++j) {
    const std::size_t terms = terms_for(frequencies.theta[j]);
    slow_[j] = terms > 0 ? 1 : 0;
    if (terms == 0) fast_index_[j] = fast++;
    fill_terms(frequencies.theta[j], terms, terms_.data() + j, padded_);
    std::uint8_t& most = block_terms_[j / kAnchorBlock];
    most = std::max(most, static_cast<std::uint8_t>(terms));
  }
  fast_ = AlignedBuffer<float>(fast * 2 * kAnchorHalf);
  for (std::size_t j = 0; j < pairs_; ++j) {
    if (slow_[j]) continue;
    float* out = fast_.data() + fast_index_[j] * 2 * kAnchorHalf;
    for (std::size_t k = 0; k < kAnchorHalf; ++k) {
      const double angle = frequencies.theta[j] * (static_cast<double>(k) + 0.5);
      out[k] = static_cast<float>(std::cos(angle));
      out[kAnchorHalf + k] = static_cast<float>(std::sin(angle));
    }
  }
  for (std::size_t page = 0; page < pages; ++page) {
    const double middle = kPage * static_cast<double>(page) + kMiddle;
    float* out = phases_.data() + page * 2 * padded_;
    for (std::size_t j = 0; j < pairs_; ++j) {  // the product is kept exactly, as in rope_angles
      const double angle = middle * frequencies.theta[j];
      const double rest = std::fma(middle, frequencies.theta[j], -angle);
      const double cosine = std::cos(angle), sine = std::sin(angle);
      out[j] = static_cast<float>(frequencies.magnitude * (cosine - rest * sine));
      out[padded_ + j] = static_cast<float>(frequencies.magnitude * (sine + rest * cosine));
    }
  }
}

std::size_t AnchorAngles::bytes() const noexcept {
  return phases_.size_bytes() + terms_.size_bytes() + fast_.size_bytes() + slow_.size() + block_terms_.size() +
         fast_index_.size() * sizeof fast_index_[0];
}

AnchorPairs make_anchor_pairs(const AnchorAngles& angles, std::span<const float> a) {
  const std::size_t pairs = angles.pairs();
  KVANT_ASSERT(a.size() >= 2 * pairs);
  AnchorPairs result;
  result.re.resize(angles.padded_pairs());
  result.im.resize(angles.padded_pairs());
  for (std::size_t j = 0; j < pairs; ++j) {
    result.re[j] = a[j];
    result.im[j] = a[j + pairs];
    if (a[j] == 0 && a[j + pairs] == 0) continue;
    if (!angles.slow(j)) {
      result.fast.push_back(static_cast<std::uint16_t>(j));
      continue;
    }
    if (result.slow_last == 0) result.slow_first = j / kAnchorBlock * kAnchorBlock;
    result.slow_last = (j / kAnchorBlock + 1) * kAnchorBlock;
  }
  return result;
}

void anchor_products(const AnchorAngles& angles, const AnchorPairs& anchor, const float* q, float* re,
                     float* im) noexcept {
  const std::size_t pairs = angles.pairs();
  const float* a = anchor.re.data();
  const float* b = anchor.im.data();
  for (std::size_t j = 0; j < pairs; ++j) {
    const float x = q[j], y = q[j + pairs];
    re[j] = x * a[j] + y * b[j];
    im[j] = x * b[j] - y * a[j];
  }
  std::fill(re + pairs, re + angles.padded_pairs(), 0.0F);
  std::fill(im + pairs, im + angles.padded_pairs(), 0.0F);
}

#define KVANT_KERNELS(tier)                      \
  namespace tier {                               \
  void add_anchor(const AnchorArgs& a) noexcept; \
  }
#include "kernels/anchor/kernels.inc"
#undef KVANT_KERNELS

std::span<const Implementation<AnchorFunction>> anchor_implementations() noexcept {
  static constexpr Implementation<AnchorFunction> kList[] = {
#define KVANT_KERNELS(tier) {#tier, Isa::tier, &tier::add_anchor},
#include "kernels/anchor/kernels.inc"
#undef KVANT_KERNELS
  };
  return kList;
}

AnchorFunction add_anchor(Isa isa) noexcept { return pick(anchor_implementations(), isa).function; }

}  // namespace kvant::kernels
