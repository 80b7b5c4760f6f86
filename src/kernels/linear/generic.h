// Products with a matrix over a tier's vectors. Included inside the namespace and target region of each tier.
namespace {

/// A register tile: rows at most, and vectors of lanes for `rows` of them. The matrix is read once for all its rows.
constexpr std::size_t kLinearRows = 6;
constexpr std::size_t lane_vectors(std::size_t rows) {
  const std::size_t most = F32::kRegisters * 3 / 4 / rows;
  return most >= 8 ? 8 : most >= 4 ? 4 : most >= 2 ? 2 : 1;
}

/// Lanes from `lane` on, of rows from `row` on.
template <std::size_t rows, std::size_t vectors>
void linear_tile(const LinearArgs& a, std::size_t row, std::size_t lane) noexcept {
  F32 sums[rows][vectors];
  for (auto& sum : sums) {
    for (F32& s : sum) s = zero();
  }
  const float* x = a.x + row * a.x_stride;
  const Bf16* m = a.m + lane;
  for (std::size_t i = 0; i < a.inputs; ++i, m += a.lanes) {
    F32 line[vectors];
    KVANT_UNROLL
    for (std::size_t v = 0; v < vectors; ++v) {
      line[v] = in_register(load_bf16(reinterpret_cast<const std::byte*>(m + v * F32::kLanes)));
    }
    KVANT_UNROLL
    for (std::size_t r = 0; r < rows; ++r) {
      const F32 factor = in_register(broadcast(x[r * a.x_stride + i]));
      KVANT_UNROLL
      for (std::size_t v = 0; v < vectors; ++v) sums[r][v] = sums[r][v] + factor * line[v];
    }
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    KVANT_UNROLL
    for (std::size_t v = 0; v < vectors; ++v) store(a.y + (row + r) * a.y_stride + lane + v * F32::kLanes, sums[r][v]);
  }
}

/// Lanes that fill no vector.
template <std::size_t rows>
void linear_rest(const LinearArgs& a, std::size_t row, std::size_t lane) noexcept {
  for (; lane < a.lanes; ++lane) {
    for (std::size_t r = row; r < row + rows; ++r) {
      float sum = 0;
      for (std::size_t i = 0; i < a.inputs; ++i) sum += a.x[r * a.x_stride + i] * to_float(a.m[i * a.lanes + lane]);
      a.y[r * a.y_stride + lane] = sum;
    }
  }
}

template <std::size_t rows, std::size_t vectors = lane_vectors(rows)>
void linear_rows(const LinearArgs& a, std::size_t row, std::size_t lane) noexcept {
  constexpr std::size_t kStep = vectors * F32::kLanes;
  for (; lane + kStep <= a.lanes; lane += kStep) linear_tile<rows, vectors>(a, row, lane);
  if constexpr (vectors > 1) return linear_rows<rows, vectors / 2>(a, row, lane);
  linear_rest<rows>(a, row, lane);
}

}  // namespace

void linear(const LinearArgs& a) noexcept {
  std::size_t row = 0;
  for (; row + kLinearRows <= a.rows; row += kLinearRows) linear_rows<kLinearRows>(a, row, 0);
  switch (a.rows - row) {
    case 5:
      return linear_rows<5>(a, row, 0);
    case 4:
      return linear_rows<4>(a, row, 0);
    case 3:
      return linear_rows<3>(a, row, 0);
    case 2:
      return linear_rows<2>(a, row, 0);
    case 1:
      return linear_rows<1>(a, row, 0);
    default:
      return;
  }
}
