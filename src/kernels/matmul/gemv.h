// The decode kernels over a tier's products. Included in gemv_<tier>.cpp behind these, inside its namespace and target
// region; needs kXRows, kStreamXRows, row_products<Step, streams, rows of x> and float_products<Weights, streams>.

/// Calls product(streams, o) for rows o of the weights: in each for the row itself and its counterparts in other
/// streams. x_rows  how many rows of x streams may have
template <class Product>
void visit_rows(const GemvArgs& a, std::size_t x_rows, Product product) noexcept {
  if (a.streams == GemvArgs::kStreams && a.x.rows <= x_rows) {
    constexpr std::integral_constant<std::size_t, GemvArgs::kStreams> kAll;
    for (std::size_t o = 0; o < a.rows; ++o) product(kAll, o);
    return;
  }
  constexpr std::integral_constant<std::size_t, 1> kOne;
  for (std::size_t s = 0; s < a.streams; ++s) {
    for (std::size_t o = 0; o < a.rows; ++o) product(kOne, s * a.apart + o);
  }
}

/// All rows of x by one row of the weights in each stream, `most` rows of x at a time.
template <class Step, std::size_t streams, std::size_t most>
void x_products(const GemvArgs& a, std::size_t o) noexcept {
  const std::size_t row_bytes = a.cols * Step::kBytes / Step::kValues, stride = activation_blocks(a.cols);
  std::size_t r = 0;
  const auto multiply = [&]<std::size_t rows>(std::integral_constant<std::size_t, rows>) {
    for (; r + rows <= a.x.rows; r += rows) {
      row_products<Step, streams, rows>(a.weights + o * row_bytes, a.apart * row_bytes, a.cols, a.blocks + r * stride,
                                        stride, a.y + r * a.y_stride + o, a.apart, a.y_stride);
    }
  };
  if constexpr (most > 2) multiply(std::integral_constant<std::size_t, most>{});
  if constexpr (most > 1) multiply(std::integral_constant<std::size_t, 2>{});
  multiply(std::integral_constant<std::size_t, 1>{});
}

template <class Step>
void gemv(const GemvArgs& a) noexcept {
  constexpr std::size_t kAny = ~std::size_t{0};
  visit_rows(a, kStreamXRows > 1 ? kAny : 1,
             [&]<std::size_t streams>(std::integral_constant<std::size_t, streams>, std::size_t o) {
               x_products<Step, streams, streams == 1 ? kXRows : kStreamXRows>(a, o);
             });
}

template <class Weights>
void float_gemv(const GemvArgs& a) noexcept {
  const std::size_t row_bytes = a.cols * Weights::kBytes;
  visit_rows(a, 1, [&]<std::size_t streams>(std::integral_constant<std::size_t, streams>, std::size_t o) {
    for (std::size_t r = 0; r < a.x.rows; ++r) {
      float_products<Weights, streams>(a.weights + o * row_bytes, a.apart * row_bytes, a.x.data + r * a.x.stride,
                                       a.cols, a.y + r * a.y_stride + o, a.apart);
    }
  });
}
