#include <algorithm>

#include "kernels/matmul/kernels.h"

namespace kvant::kernels::scalar {
namespace {

constexpr std::size_t kColumns = 16;

void pack(const float* rows, std::size_t stride, std::size_t depth, std::size_t first, void* panel) noexcept {
  auto* out = static_cast<float*>(panel) + first;
  for (std::size_t k = 0; k < depth; ++k) {
    for (std::size_t i = 0; i < Tile::kUnit; ++i) out[k * kColumns + i] = rows[i * stride + k];
  }
}

void multiply(const TileArgs& a) noexcept {
  const auto* x = static_cast<const float*>(a.x);
  const auto* panel = static_cast<const float*>(a.panel);
  for (std::size_t r = 0; r < a.rows; ++r, x += a.x_stride) {
    float sums[kColumns] = {};
    for (std::size_t k = 0; k < a.depth; ++k) {
      for (std::size_t c = 0; c < kColumns; ++c) sums[c] += x[k] * panel[k * kColumns + c];
    }
    float* out = a.sums + r * kColumns;
    for (std::size_t c = 0; c < kColumns; ++c) out[c] = a.accumulate ? out[c] + sums[c] : sums[c];
  }
}

}  // namespace

extern const Tile f32_tile = {kColumns, 256, false, pack, multiply, nullptr};

}  // namespace kvant::kernels::scalar
