// The decode kernels over a tier's products. Included in gemv_<tier>.cpp behind these, inside its namespace and target
// region; needs kXRows, row_products<Step, streams, rows of x> and float_products<Weights, streams>.

/// Rows that are read in streams, where the arguments ask for it: calls product(o, part) for row o of the first stream,
/// whose rows in the others are part, 2 part, ... further. Returns how many rows are done.
template <class Product>
std::size_t in_streams(const GemvArgs& a, Product product) noexcept {
  if (a.streams != GemvArgs::kStreams || a.x.rows != 1) return 0;
  const std::size_t part = a.rows / GemvArgs::kStreams;
  for (std::size_t o = 0; o < part; ++o) product(o, part);
  return part * GemvArgs::kStreams;
}

template <class Step>
void gemv(const GemvArgs& a) noexcept {
  const std::size_t row_bytes = a.cols * Step::kBytes / Step::kValues;
  const std::size_t stride = activation_blocks(a.cols);
  std::size_t o = in_streams(a, [&](std::size_t row, std::size_t part) {
    row_products<Step, GemvArgs::kStreams, 1>(a.weights + row * row_bytes, part * row_bytes, a.cols, a.blocks, stride,
                                              a.y + row, part, a.y_stride);
  });
  for (; o < a.rows; ++o) {
    const std::byte* w = a.weights + o * row_bytes;
    std::size_t r = 0;
    for (; r + kXRows <= a.x.rows; r += kXRows) {
      row_products<Step, 1, kXRows>(w, 0, a.cols, a.blocks + r * stride, stride, a.y + r * a.y_stride + o, 0,
                                    a.y_stride);
    }
    for (; r < a.x.rows; ++r) {
      row_products<Step, 1, 1>(w, 0, a.cols, a.blocks + r * stride, stride, a.y + r * a.y_stride + o, 0, a.y_stride);
    }
  }
}

template <class Weights>
void float_gemv(const GemvArgs& a) noexcept {
  const std::size_t row_bytes = a.cols * Weights::kBytes;
  std::size_t o = in_streams(a, [&](std::size_t row, std::size_t part) {
    float_products<Weights, GemvArgs::kStreams>(a.weights + row * row_bytes, part * row_bytes, a.x.data, a.cols,
                                                a.y + row, part);
  });
  for (; o < a.rows; ++o) {
    for (std::size_t r = 0; r < a.x.rows; ++r) {
      float_products<Weights, 1>(a.weights + o * row_bytes, 0, a.x.data + r * a.x.stride, a.cols,
                                 a.y + r * a.y_stride + o, 0);
    }
  }
}
