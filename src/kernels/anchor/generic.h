// The anchor's kernel over a tier's vectors; the tier adds `reverse` (the lanes in opposite order) and `fnma` (c - a
// b). Included inside the namespace and target region of each tier.
namespace {

constexpr std::size_t kLanes = F32::kLanes;
constexpr std::size_t kVectors = kAnchorHalf / kLanes;  // of half a page
/// Rows that share the loads of the terms.
constexpr std::size_t kRowTile = F32::kRegisters >= 32 ? 3 : 2;

/// u and u^2 of the tokens from the middle of the page on.
struct Positions {
  alignas(64) float u[kAnchorHalf], square[kAnchorHalf];
};
constexpr Positions kPositions = [] {
  Positions p{};
  for (std::size_t k = 0; k < kAnchorHalf; ++k) {
    const double u = (static_cast<double>(k) + 0.5) / 31.5;
    p.u[k] = static_cast<float>(u);
    p.square[k] = static_cast<float>(u * u);
  }
  return p;
}();

/// Real and imaginary part of C_j e^{i phase_j} of a vector of pairs, from j on.
template <std::size_t rows>
[[gnu::always_inline]] inline void turn(const AnchorArgs& a, std::size_t first_row, std::size_t j,
                                        F32 (&parts)[rows][2]) noexcept {
  const std::size_t padded = a.angles.padded_pairs();
  const F32 cosine = load(a.angles.cosines(a.page) + j), sine = load(a.angles.sines(a.page) + j);
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    const F32 re = load(a.re + (first_row + r) * padded + j), im = load(a.im + (first_row + r) * padded + j);
    parts[r][0] = fnma(im, sine, re * cosine);
    parts[r][1] = fma(im, cosine, re * sine);
  }
}

/// sums[r][n] += the real (n even) or imaginary (n odd) part of C_j e^{i phase_j}, times term n of pair j, over a
/// block.
template <std::size_t terms, std::size_t rows>
[[gnu::always_inline]] inline void add_block(const AnchorArgs& a, std::size_t first_row, std::size_t block,
                                             F32 (&sums)[rows][kAnchorTerms]) noexcept {
  KVANT_UNROLL
  for (std::size_t i = 0; i < kAnchorBlock; i += kLanes) {
    const std::size_t j = block * kAnchorBlock + i;
    F32 parts[rows][2];
    turn(a, first_row, j, parts);
    KVANT_UNROLL
    for (std::size_t n = 0; n < terms; ++n) {
      const F32 term = load(a.angles.terms(n) + j);
      KVANT_UNROLL
      for (std::size_t r = 0; r < rows; ++r) sums[r][n] = fma(parts[r][n % 2], term, sums[r][n]);
    }
  }
}

/// coefficients[r][n] of the common polynomial of the slow pairs: the real part is the even powers' sum minus the odd
/// powers'.
template <std::size_t rows>
[[gnu::always_inline]] inline void polynomial(const AnchorArgs& a, std::size_t first_row,
                                              float (&coefficients)[rows][kAnchorTerms]) noexcept {
  F32 sums[rows][kAnchorTerms];
  KVANT_UNROLL
  for (auto& row : sums) {
    KVANT_UNROLL
    for (F32& s : row) s = zero();
  }
  for (std::size_t b = a.anchor.slow_first / kAnchorBlock; b < a.anchor.slow_last / kAnchorBlock; ++b) {
    switch (a.angles.block_terms(b)) {
      case 4:
        add_block<4>(a, first_row, b, sums);
        break;
      case 6:
        add_block<6>(a, first_row, b, sums);
        break;
      case 8:
        add_block<8>(a, first_row, b, sums);
        break;
      default:
        break;
    }
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    sum4(sums[r][0], sums[r][1], sums[r][2], sums[r][3], coefficients[r]);
    sum4(sums[r][4], sums[r][5], sums[r][6], sums[r][7], coefficients[r] + 4);
  }
}

/// The parts of some rows that are even and odd about the middle of the page, over its upper half.
template <std::size_t rows>
struct Halves {
  F32 even[rows][kVectors], odd[rows][kVectors];
};

template <std::size_t rows>
[[gnu::always_inline]] inline void evaluate(const float (&c)[rows][kAnchorTerms], Halves<rows>& h) noexcept {
  KVANT_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) {
    const F32 square = load(kPositions.square + v * kLanes), u = load(kPositions.u + v * kLanes);
    KVANT_UNROLL
    for (std::size_t r = 0; r < rows; ++r) {
      F32 even = broadcast(c[r][6]), odd = broadcast(c[r][7]);
      KVANT_UNROLL
      for (std::size_t n = 6; n > 0; n -= 2) {
        even = fma(even, square, broadcast(c[r][n - 2]));
        odd = fma(odd, square, broadcast(c[r][n - 1]));
      }
      h.even[r][v] = even;
      h.odd[r][v] = odd * u;
    }
  }
}

/// C_j e^{i phase_j} of the pairs of a block.
template <std::size_t rows>
struct Phases {
  alignas(64) float re[rows][kAnchorBlock], im[rows][kAnchorBlock];
};

template <std::size_t rows>
[[gnu::always_inline]] inline void turn_block(const AnchorArgs& a, std::size_t first_row, std::size_t block,
                                              Phases<rows>& p) noexcept {
  KVANT_UNROLL
  for (std::size_t i = 0; i < kAnchorBlock; i += kLanes) {
    F32 parts[rows][2];
    turn(a, first_row, block * kAnchorBlock + i, parts);
    KVANT_UNROLL
    for (std::size_t r = 0; r < rows; ++r) {
      store(p.re[r] + i, parts[r][0]);
      store(p.im[r] + i, parts[r][1]);
    }
  }
}

template <std::size_t rows>
[[gnu::always_inline]] inline void add_fast(const AnchorArgs& a, std::size_t first_row, Halves<rows>& h) noexcept {
  Phases<rows> phases;
  std::size_t turned = ~std::size_t{0};
  for (const std::size_t j : a.anchor.fast) {
    if (j / kAnchorBlock != turned) turn_block(a, first_row, turned = j / kAnchorBlock, phases);
    const float* cosine = a.angles.fast_cosines(j);
    const float* sine = a.angles.fast_sines(j);
    KVANT_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) {
      const F32 c = load(cosine + v * kLanes), s = load(sine + v * kLanes);
      KVANT_UNROLL
      for (std::size_t r = 0; r < rows; ++r) {
        h.even[r][v] = fma(broadcast(phases.re[r][j % kAnchorBlock]), c, h.even[r][v]);
        h.odd[r][v] = fma(broadcast(phases.im[r][j % kAnchorBlock]), s, h.odd[r][v]);
      }
    }
  }
}

template <std::size_t rows>
void add_rows(const AnchorArgs& a, std::size_t first_row) noexcept {
  Halves<rows> h{};
  if (a.anchor.slow_first < a.anchor.slow_last) {
    float coefficients[rows][kAnchorTerms];
    polynomial(a, first_row, coefficients);
    evaluate(coefficients, h);
  }
  add_fast(a, first_row, h);
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    float* upper = a.logits + (first_row + r) * 2 * kAnchorHalf + kAnchorHalf;
    KVANT_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) {
      float* above = upper + v * kLanes;
      float* below = upper - (v + 1) * kLanes;
      store(above, load(above) + (h.even[r][v] - h.odd[r][v]));
      store(below, load(below) + reverse(h.even[r][v] + h.odd[r][v]));
    }
  }
}

}  // namespace

void add_anchor(const AnchorArgs& a) noexcept {
  if (a.anchor.slow_first == a.anchor.slow_last && a.anchor.fast.empty()) return;
  // The next page's angles; what is streamed between two pages throws them out of the near caches.
  const std::size_t angles = 2 * a.angles.padded_pairs();
  for (std::size_t i = 0; i < angles; i += 16) __builtin_prefetch(a.angles.cosines(a.page) + angles + i, 0, 3);
  std::size_t r = 0;
  for (; r + kRowTile <= a.rows; r += kRowTile) add_rows<kRowTile>(a, r);
  for (; r < a.rows; ++r) add_rows<1>(a, r);
}
