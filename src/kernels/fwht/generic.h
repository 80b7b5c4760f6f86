// The Walsh-Hadamard transform over a tier's vectors. Included inside the namespace and target region of each tier.
// Needs butterfly<step>(F32): lanes i and i ^ step become their sum (in the lower one) and difference.
namespace {

/// Butterflies at the distances below the number of lanes.
template <std::size_t step>
F32 within(F32 x) noexcept {
  if constexpr (step < F32::kLanes) {
    return within<2 * step>(butterfly<step>(x));
  } else {
    return x;
  }
}

void transform(float* x, std::size_t n) noexcept {
  constexpr std::size_t kLanes = F32::kLanes;
  for (std::size_t i = 0; i < n; i += kLanes) store(x + i, within<1>(load(x + i)));
  for (std::size_t step = kLanes; step < n; step *= 2) {
    for (std::size_t i = 0; i < n; i += 2 * step) {
      for (std::size_t j = i; j < i + step; j += kLanes) {
        const F32 a = load(x + j);
        const F32 b = load(x + j + step);
        store(x + j, a + b);
        store(x + j + step, a - b);
      }
    }
  }
  const F32 scale = broadcast(scale_of(n));
  for (std::size_t i = 0; i < n; i += kLanes) store(x + i, load(x + i) * scale);
}

}  // namespace

void fwht(float* x, std::size_t n) noexcept { n < F32::kLanes ? scalar::fwht(x, n) : transform(x, n); }
