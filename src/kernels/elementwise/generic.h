// The element-wise kernels over a tier's vectors. Included inside the namespace and target region of each tier.
namespace {

constexpr std::size_t kLanes = F32::kLanes;

float sum_of_squares(const float* x, std::size_t n) noexcept {
  F32 s[4] = {zero(), zero(), zero(), zero()};  // enough chains to hide the latency of the adder
  std::size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes) {
    KVANT_UNROLL
    for (std::size_t j = 0; j < 4; ++j) {
      const F32 v = load(x + i + j * kLanes);
      s[j] = fma(v, v, s[j]);
    }
  }
  for (; i + kLanes <= n; i += kLanes) {
    const F32 v = load(x + i);
    s[0] = fma(v, v, s[0]);
  }
  if (i < n) {
    const F32 v = load_part(x + i, n - i);
    s[1] = fma(v, v, s[1]);
  }
  return sum((s[0] + s[1]) + (s[2] + s[3]));
}

/// out[i] = f(a[i], b[i])
template <class Function>
void for_each(const float* a, const float* b, std::size_t n, float* out, Function f) noexcept {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, f(load(a + i), load(b + i)));
  if (i < n) store_part(out + i, f(load_part(a + i, n - i), load_part(b + i, n - i)), n - i);
}

void rms_norm(const float* x, const float* weight, float epsilon, std::size_t n, float* out) noexcept {
  if (n == 0) return;
  const float mean = sum_of_squares(x, n) / static_cast<float>(n);
  const F32 scale = broadcast(1.0F / std::sqrt(mean + epsilon));
  for_each(x, weight, n, out, [scale](F32 v, F32 w) { return v * scale * w; });
}

void add(float* x, const float* y, std::size_t n) noexcept {
  for_each(x, y, n, x, [](F32 a, F32 b) { return a + b; });
}

void silu_mul(const float* gate, const float* up, std::size_t n, float* out) noexcept {
  const F32 one = broadcast(1.0F);
  for_each(gate, up, n, out, [one](F32 g, F32 u) { return g / (one + exp(zero() - g)) * u; });
}

}  // namespace

constinit const Elementwise kElementwise{rms_norm, add, silu_mul};
