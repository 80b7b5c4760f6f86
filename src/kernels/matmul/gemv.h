// The decode kernels over a tier's products. Included in gemv_<tier>.cpp behind these, inside its namespace and target
// region; needs kXRows, row_products<Step, streams, rows of x> and float_products<Weights, streams>.

/// Calls together(o) for row o of the first stream and its counterparts in the others, or alone(o) for each row.
template <class Together, class Alone>
void visit_rows(const GemvArgs& a, Together together, Alone alone) noexcept {
  if (a.streams == GemvArgs::kStreams && a.x.rows == 1) {
    for (std::size_t o = 0; o < a.rows; ++o) together(o);
    return;
  }
  for (std::size_t s = 0; s < a.streams; ++s) {
    for (std::size_t o = 0; o < a.rows; ++o) alone(s * a.apart + o);
  }
}

template <class Step>
void gemv(const GemvArgs& a) noexcept {
  const std::size_t row_bytes = a.cols * Step::kBytes / Step::kValues;
  const std::size_t stride = activation_blocks(a.cols);
  const auto together = [&](std::size_t o) {
    row_products<Step, GemvArgs::kStreams, 1>(a.weights + o * row_bytes, a.apart * row_bytes, a.cols, a.blocks, stride,
                                              a.y + o, a.apart, a.y_stride);
  };
  visit_rows(a, together, [&](std::size_t o) {
    const std::byte* w = a.weights + o * row_bytes;
    std::size_t r = 0;
    for (; r + kXRows <= a.x.rows; r += kXRows) {
      row_products<Step, 1, kXRows>(w, 0, a.cols, a.blocks + r * stride, stride, a.y + r * a.y_stride + o, 0,
                                    a.y_stride);
    }
    for (; r < a.x.rows; ++r) {
      row_products<Step, 1, 1>(w, 0, a.cols, a.blocks + r * stride, stride, a.y + r * a.y_stride + o, 0, a.y_stride);
    }
  });
}

template <class Weights>
void float_gemv(const GemvArgs& a) noexcept {
  const std::size_t row_bytes = a.cols * Weights::kBytes;
  const auto together = [&](std::size_t o) {
    float_products<Weights, GemvArgs::kStreams>(a.weights + o * row_bytes, a.apart * row_bytes, a.x.data, a.cols,
                                                a.y + o, a.apart);
  };
  visit_rows(a, together, [&](std::size_t o) {
    for (std::size_t r = 0; r < a.x.rows; ++r) {
      float_products<Weights, 1>(a.weights + o * row_bytes, 0, a.x.data + r * a.x.stride, a.cols,
                                 a.y + r * a.y_stride + o, 0);
    }
  });
}
