// The prefill kernel over a tier's panels and tiles. Included in gemm_<tier>.cpp behind these, inside its namespace and
// target region; needs kColumns (= GemmArgs::kMaxRows), kXRows of 4, and tile<Type, rows>(panel, x, totals).

/// Type: packs kUnit columns of a Panel at a time from 256 values of as many rows.
template <class Type, class Panel, std::size_t kUnit>
void gemm_panels(const GemmArgs& a) noexcept {
  using Tile = void (*)(const Panel&, const ActivationBlock*, float(*)[kColumns]) noexcept;
  static constexpr Tile kTiles[kXRows] = {tile<Type, 1>, tile<Type, 2>, tile<Type, 3>, tile<Type, 4>};
  static constexpr std::byte kZeros[Type::kBytes] = {};
  auto& panel = *reinterpret_cast<Panel*>(a.scratch);
  auto* totals = reinterpret_cast<float(*)[kColumns]>(a.scratch + GemmArgs::kPanelBytes);
  std::memset(totals, 0, a.n * sizeof *totals);
  const std::size_t row_bytes = a.cols * Type::kBytes / 256;
  for (std::size_t k = 0; k < a.cols; k += 256) {
    const std::size_t bytes = std::min<std::size_t>(256, a.cols - k) * Type::kBytes / 256;
    for (std::size_t first = 0; first < kColumns; first += kUnit) {
      std::byte padded[kUnit][Type::kBytes];
      const std::byte* rows[kUnit];
      for (std::size_t i = 0; i < kUnit; ++i) {
        rows[i] = first + i < a.rows ? a.weights + (first + i) * row_bytes + k * Type::kBytes / 256 : kZeros;
        if (bytes < Type::kBytes && first + i < a.rows) {
          std::memset(padded[i], 0, Type::kBytes);
          std::memcpy(padded[i], rows[i], bytes);
          rows[i] = padded[i];
        }
      }
      Type::pack(rows, first, panel);
    }
    const ActivationBlock* x = a.blocks + k / 256 * a.n;
    for (std::size_t r = 0; r < a.n; r += kXRows) {
      kTiles[std::min(kXRows, a.n - r) - 1](panel, x + r, totals + r);
    }
  }
  for (std::size_t r = 0; r < a.n; ++r) std::memcpy(a.y + r * a.y_stride, totals[r], a.rows * sizeof(float));
}
