// Mixes over the planes of values on a tier of vectors. Included in mix_<tier>.cpp, which gives the tier's lanes.

namespace {

/// The bytes of a page of values, from its planes.
template <int bits>
struct ValuePlanes {
  static constexpr int kBits = bits;
  const std::byte* page;
  std::size_t dims;
  Table table;

  explicit ValuePlanes(const CodeMixArgs& a) : page(a.page), dims(a.pages.layout.padded_dims()), table(a.pages.table) {}

  template <int half>
  struct Fields {
    const std::byte* page;
    std::size_t dims, dim, octet;

    template <int width, int first_bit>
    [[gnu::always_inline]] Words get() const {
      const std::size_t words = dims * width / 4;
      const Words at = load_words(page + 8 * dims * first_bit + 4 * (octet * words + dim % words));
      if constexpr (width == 4) return move_bits<4 * half, first_bit>(at);
      return move_bits(at, make_moves(width * (2 * static_cast<int>(dim / words) + half), first_bit));
    }
  };

  /// A vector of dims.
  struct Column {
    const ValuePlanes& values;
    std::size_t dim;

    /// For four tokens of 8.
    template <int half>
    [[gnu::always_inline]] Words get(std::size_t octet) const {
      return look_up<bits>(values.table, join_planes<bits>(Fields<half>{values.page, values.dims, dim, octet}));
    }
  };
  [[gnu::always_inline]] Column column(std::size_t dim) const { return {*this, dim}; }
};

/// The same, decoded once for many rows.
template <int bits>
struct ValueBytes {
  static constexpr int kBits = bits;
  const std::uint8_t* bytes;
  std::size_t dims;

  struct Column {
    const std::uint8_t* bytes;
    std::size_t dims;
    template <int half>
    [[gnu::always_inline]] Words get(std::size_t octet) const {
      return load_words(bytes + 4 * (2 * octet + half) * dims);
    }
  };
  Column column(std::size_t dim) const { return {bytes + 4 * dim, dims}; }
};

template <int bits>
void decode(const CodeMixArgs& a, std::uint8_t* bytes) {
  const std::size_t dims = a.pages.layout.padded_dims();
  const ValuePlanes<bits> planes(a);
  for (std::size_t dim = 0; dim < dims; dim += kCodeLanes) {
    const auto column = planes.column(dim);
    for (std::size_t octet = 0; 8 * octet < a.tokens; ++octet) {
      std::uint8_t* to = bytes + 4 * (2 * octet * dims + dim);
      store_words(to, column.template get<0>(octet));
      store_words(to + 4 * dims, column.template get<1>(octet));
    }
  }
}

inline std::int32_t whole_sum(F32 a) { return static_cast<std::int32_t>(sum(a)); }

/// A row's weights times the scales of one group, rounded.
struct RowWeights {
  WholeWeights whole;
  float unit;
  std::int32_t sum;    ///< of the whole numbers
  std::int32_t start;  ///< where sums over tokens start

  /// `scales` are 0 from `tokens` on.
  [[gnu::noinline]] void set(const float* weights, const F32 (&scales)[kTokenVectors], std::size_t tokens) {
    F32 products[kTokenVectors], greatest = zero();
    KVANT_UNROLL
    for (std::size_t i = 0; i < kTokenVectors; ++i) {
      const std::size_t left = tokens - std::min(tokens, i * kCodeLanes);
      products[i] = load_part(weights + i * kCodeLanes, std::min(left, kCodeLanes)) * scales[i];
      greatest = max(greatest, products[i]);
    }
    const float peak = max(greatest);
    unit = peak < kNegligible ? 0 : peak / kMaxWeight;
    const F32 factor = broadcast(peak < kNegligible ? 0 : kMaxWeight / peak);
    I32 rounded[kTokenVectors], total = broadcast_i32(0);
    KVANT_UNROLL
    for (std::size_t i = 0; i < kTokenVectors; ++i) {
      rounded[i] = to_i32(products[i] * factor);
      total = total + rounded[i];
    }
    sum = whole_sum(to_f32(total));  // below 2^24: exact in any order
    whole.set(rounded);
  }
};

/// The scales of a group, 0 for what are no tokens.
[[gnu::always_inline]] inline void read_scales(F32 (&scales)[kTokenVectors], const CodeMixArgs& a, const Group& group) {
  float all[kPageTokens];
  for (std::size_t i = 0; i < kTokenVectors; ++i) {
    store(all + i * kCodeLanes, load_scales(a.pages, a.page, group.index, i * kCodeLanes));
  }
  std::fill(all + a.tokens, all + kPageTokens, 0.0F);
  for (std::size_t i = 0; i < kTokenVectors; ++i) scales[i] = load(all + i * kCodeLanes);
}

/// For rows from `first_row` on.
void round_weights(const CodeMixArgs& a, const Group& group, std::size_t first_row,
                   std::span<RowWeights> rows) noexcept {
  F32 scales[kTokenVectors];
  read_scales(scales, a, group);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    rows[r].set(a.weights + (first_row + r) * kPageTokens, scales, a.tokens);
  }
}

template <std::size_t rows>
using DimSums = WeightedSums[rows][kDimVectors];

template <int half, std::size_t rows, class Values>
[[gnu::always_inline]] inline void add_four_tokens(DimSums<rows>& sums, const Values& values, std::size_t dim,
                                                   const RowWeights* weights, std::size_t octet) {
  Bytes bytes[kDimVectors];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kDimVectors; ++c) {
    bytes[c] = to_bytes(values.column(dim + c * kCodeLanes).template get<half>(octet));
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kDimVectors; ++c) {
      sums[r][c].add_four(bytes[c], weights[r].whole, 8 * octet + 4 * half);
    }
  }
}

/// kDimVectors vectors of dims of the result.
template <std::size_t rows, class Values>
[[gnu::always_inline]] inline void mix_columns(const Values& values, const CodeMixArgs& a, const RowWeights* weights,
                                               const float* rescale, float* out, std::size_t dim) {
  const std::size_t dims = values.dims, octets = (a.tokens + 7) / 8;
  DimSums<rows> sums;
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    KVANT_UNROLL
    for (auto& sum : sums[r]) sum.start(set_words(weights[r].start));
  }
  for (std::size_t octet = 0; octet < octets; ++octet) {
    add_four_tokens<0, rows>(sums, values, dim, weights, octet);
    add_four_tokens<1, rows>(sums, values, dim, weights, octet);
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    const F32 unit = broadcast(weights[r].unit), keep = broadcast(rescale[r]);
    KVANT_UNROLL
    for (std::size_t c = 0; c < kDimVectors; ++c) {
      const F32 sum = after_sums<Values::kBits>(sums[r][c].total(), a.pages.table, weights[r].sum);
      float* to = out + r * dims + dim + c * kCodeLanes;
      store(to, fma(unit, sum, keep * load(to)));
    }
  }
}

template <std::size_t rows, class Values>
void mix_tile(const Values& values, const CodeMixArgs& a, std::size_t first_row, Upcoming next) noexcept {
  constexpr std::size_t kStep = kDimVectors * kCodeLanes;
  const Values local = values;
  float* out = a.out + first_row * local.dims;
  Prefetcher prefetcher(next, local.dims / kStep);
  for (Group group = group_at(a.pages, 0); group.count > 0; group = group_at(a.pages, group.first + group.count)) {
    RowWeights weights[rows];
    round_weights(a, group, first_row, weights);
    for (RowWeights& row : weights) row.start = before_sums<Values::kBits>(a.pages.table, row.sum);
    for (std::size_t dim = group.first; dim < group.first + group.count; dim += kStep) {
      prefetcher.step();
      mix_columns<rows>(local, a, weights, a.rescale + first_row, out, dim);
    }
  }
}

template <class Values, std::size_t... i>
void mix_tile_of(std::size_t rows, const Values& values, const CodeMixArgs& a, std::size_t first_row, Upcoming next,
                 std::index_sequence<i...>) {
  static constexpr std::array<void (*)(const Values&, const CodeMixArgs&, std::size_t, Upcoming) noexcept, kCodeRows>
      kTiles{mix_tile<i + 1, Values>...};
  kTiles[rows - 1](values, a, first_row, next);
}

template <class Values>
void mix_tile_of(std::size_t rows, const Values& values, const CodeMixArgs& a, std::size_t first_row, Upcoming next) {
  mix_tile_of(rows, values, a, first_row, next, std::make_index_sequence<kCodeRows>{});
}

}  // namespace

template <int bits>
void mix_codes(const CodeMixArgs& a) noexcept {
  if (a.rows <= kCodeRows) return mix_tile_of(a.rows, ValuePlanes<bits>(a), a, 0, a.next);
  alignas(64) std::uint8_t bytes[kPageTokens * kMaxCodedDims];
  decode<bits>(a, bytes);
  const ValueBytes<bits <= 6 ? 6 : 8> values{bytes, a.pages.layout.padded_dims()};
  for (std::size_t first = 0; first < a.rows; first += kCodeRows) {
    mix_tile_of(std::min(kCodeRows, a.rows - first), values, a, first, first == 0 ? a.next : Upcoming{});
  }
}

template void mix_codes<1>(const CodeMixArgs&) noexcept;
template void mix_codes<2>(const CodeMixArgs&) noexcept;
template void mix_codes<3>(const CodeMixArgs&) noexcept;
template void mix_codes<4>(const CodeMixArgs&) noexcept;
template void mix_codes<5>(const CodeMixArgs&) noexcept;
template void mix_codes<6>(const CodeMixArgs&) noexcept;
template void mix_codes<7>(const CodeMixArgs&) noexcept;
template void mix_codes<8>(const CodeMixArgs&) noexcept;
