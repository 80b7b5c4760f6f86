#include "kernels/fwht/scalar.h"

#include <cmath>

namespace kvant::kernels {

float scale_of(std::size_t n) noexcept { return static_cast<float>(1 / std::sqrt(static_cast<double>(n))); }

void scalar::fwht(float* x, std::size_t n) noexcept {
  for (std::size_t step = 1; step < n; step *= 2) {
    for (std::size_t i = 0; i < n; i += 2 * step) {
      for (std::size_t j = i; j < i + step; ++j) {
        const float a = x[j];
        const float b = x[j + step];
        x[j] = a + b;
        x[j + step] = a - b;
      }
    }
  }
  const float scale = scale_of(n);
  for (std::size_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace kvant::kernels
