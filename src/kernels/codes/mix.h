// Mixes over the planes of values on a tier of vectors. Included in mix_<tier>.cpp, which gives the tier's lanes,
// after values.h.
namespace {

template <bool coarse, std::size_t rows, std::size_t vectors>
using DimSums = WeightedSums<coarse>[rows][vectors];
/// Dims that are summed side by side: of each of some parts from `first` on, so many consecutive vectors.
template <int first, int parts, std::size_t vectors>
struct DimTile {
  static constexpr std::size_t kVectors = parts * vectors, kStep = vectors * kCodeLanes;
  std::size_t dim, part_size;  ///< of the first vector; dims of a part

  static constexpr int part(std::size_t c) { return first + static_cast<int>(c / vectors); }
  [[gnu::always_inline]] std::size_t at(std::size_t c) const {
    return dim + c / vectors * part_size + c % vectors * kCodeLanes;
  }
};

template <int half, std::size_t rows, class Tile, class Values, std::size_t... c>
[[gnu::always_inline]] inline void add_four_tokens(DimSums<kCoarse<Values>, rows, Tile::kVectors>& sums,
                                                   const Values& values, const Tile& tile, const RowWeights* weights,
                                                   std::size_t octet, std::index_sequence<c...>) {
  constexpr int kBits = Values::kBits;
  const Bytes<kBits> bytes[] = {to_bytes<kBits>(values.template get<Tile::part(c), half>(tile.at(c), octet))...};
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    (sums[r][c].add_four(bytes[c], weights[r].whole, 8 * octet + 4 * half), ...);
  }
}

/// Some vectors of dims of the result.
template <std::size_t rows, class Tile, class Values>
[[gnu::always_inline]] inline void mix_columns(const Values& values, const CodeMixArgs& a, const RowWeights* weights,
                                               float* out, const Tile& tile, Prefetcher& prefetcher) {
  constexpr auto kColumns = std::make_index_sequence<Tile::kVectors>{};
  const std::size_t stride = out_stride(a), octets = (a.tokens + 7) / 8;
  DimSums<kCoarse<Values>, rows, Tile::kVectors> sums;
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    KVANT_UNROLL
    for (auto& sum : sums[r]) sum.start(set_words(weights[r].start));
  }
  for (std::size_t octet = 0; octet < octets; ++octet) {
    prefetcher.step();
    add_four_tokens<0, rows>(sums, values, tile, weights, octet, kColumns);
    add_four_tokens<1, rows>(sums, values, tile, weights, octet, kColumns);
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    const F32 unit = broadcast(weights[r].unit);
    KVANT_UNROLL
    for (std::size_t c = 0; c < Tile::kVectors; ++c) {
      const F32 sum = after_sums<Values::kBits>(sums[r][c].total(), a.pages.table, weights[r].sum);
      float* to = out + r * stride + tile.at(c);
      store(to, fma(unit, sum, load(to)));
    }
  }
}

/// Dims [dim, end) of parts from `first` on, as long as whole tiles fit. Returns where it stopped.
template <std::size_t rows, int first, int parts, std::size_t vectors, class Values>
[[gnu::always_inline]] inline std::size_t mix_dims(const Values& values, const CodeMixArgs& a,
                                                   const RowWeights* weights, std::size_t first_row, std::size_t dim,
                                                   std::size_t end, Prefetcher& prefetcher) {
  using Tile = DimTile<first, parts, vectors>;
  float* out = a.out + first_row * out_stride(a);
  for (; dim + Tile::kStep <= end; dim += Tile::kStep) {
    mix_columns<rows>(values, a, weights, out, Tile{dim, values.dims / Values::kParts}, prefetcher);
  }
  return dim;
}

/// A group's dims of one part.
template <int part, std::size_t rows, class Values>
[[gnu::always_inline]] inline void mix_part(const Values& values, const CodeMixArgs& a, const RowWeights* weights,
                                            const Group& group, std::size_t first_row, Prefetcher& prefetcher) {
  constexpr std::size_t kMost = kDimVectors<Values::kBits>;
  auto [dim, end] = dims_of_part<part>(values, group.first, group.first + group.count);
  dim = mix_dims<rows, part, 1, kMost>(values, a, weights, first_row, dim, end, prefetcher);
  if constexpr (kMost > 2) dim = mix_dims<rows, part, 1, 2>(values, a, weights, first_row, dim, end, prefetcher);
  if constexpr (kMost > 1) mix_dims<rows, part, 1, 1>(values, a, weights, first_row, dim, end, prefetcher);
}

/// All dims, some parts at once, as their fields share words.
template <std::size_t rows, class Values>
[[gnu::always_inline]] inline void mix_all_parts(const Values& values, const CodeMixArgs& a, const RowWeights* weights,
                                                 std::size_t first_row, Prefetcher& prefetcher) {
  constexpr std::size_t kMost = kDimVectors<Values::kBits>;
  constexpr int kAtOnce = std::min(Values::kParts, static_cast<int>(kMost));
  const auto mix_from = [&]<int first>(std::integral_constant<int, first>) {
    const std::size_t part = values.dims / Values::kParts, end = first * part + part;
    const std::size_t dim =
        mix_dims<rows, first, kAtOnce, kMost / kAtOnce>(values, a, weights, first_row, first * part, end, prefetcher);
    if constexpr (kMost > kAtOnce)
      mix_dims<rows, first, kAtOnce, 1>(values, a, weights, first_row, dim, end, prefetcher);
  };
  mix_from(std::integral_constant<int, 0>{});
  if constexpr (kAtOnce < Values::kParts) mix_from(std::integral_constant<int, kAtOnce>{});
  static_assert(2 * kAtOnce >= Values::kParts || kAtOnce == 1);
}

template <std::size_t rows, class Values, int... parts>
[[gnu::always_inline]] inline void mix_rows(const Values values, const CodeMixArgs& a, std::size_t first_row,
                                            const Upcoming& next, std::integer_sequence<int, parts...>) {
  constexpr std::size_t kMost = kDimVectors<Values::kBits>;
  constexpr std::size_t kTileDims = kMost * kCodeLanes, kOctets = kPageTokens / 8;
  Prefetcher prefetcher(next, (values.dims + kTileDims - 1) / kTileDims * kOctets);
  for (Group group = group_at(a.pages, 0); group.count > 0; group = group_at(a.pages, group.first + group.count)) {
    RowWeights weights[rows];
    round_weights<kCoarse<Values>, kSummed<Values>, rows>(a, group, first_row, weights);
    for (RowWeights& row : weights) row.start = before_sums<Values::kBits>(row.sum, kValueBias<Values::kBits>);
    if constexpr (sizeof...(parts) > 1 && kMost > 1) {
      if (group.count == values.dims) {
        mix_all_parts<rows>(values, a, weights, first_row, prefetcher);
        continue;
      }
    }
    (mix_part<parts, rows>(values, a, weights, group, first_row, prefetcher), ...);
  }
}

template <std::size_t rows, class Values>
void mix_tile(const Values& values, const CodeMixArgs& a, std::size_t first_row, const Upcoming& next) noexcept {
  mix_rows<rows>(values, a, first_row, next, std::make_integer_sequence<int, Values::kParts>{});
}

template <class Values, std::size_t... i>
void mix_tile_of(std::size_t rows, const Values& values, const CodeMixArgs& a, std::size_t first_row,
                 const Upcoming& next, std::index_sequence<i...>) {
  static constexpr std::array<void (*)(const Values&, const CodeMixArgs&, std::size_t, const Upcoming&) noexcept,
                              sizeof...(i)>
      kTiles{mix_tile<i + 1, Values>...};
  kTiles[rows - 1](values, a, first_row, next);
}

/// All rows, at most kCodeRows at once.
template <class Values>
void mix_tiles(const Values& values, const CodeMixArgs& a, const Upcoming& next) {
  for (std::size_t first = 0; first < a.rows; first += kCodeRows) {
    mix_tile_of(std::min(kCodeRows, a.rows - first), values, a, first, first == 0 ? next : kNothing,
                std::make_index_sequence<kCodeRows>{});
  }
}

}  // namespace

template <int bits>
void decode_values(const CodeMixArgs& a, std::uint8_t* bytes) noexcept {
  decode_parts<bits>(a, bytes, std::make_integer_sequence<int, ValuePlanes<bits>::kParts>{});
}

template <int bits>
void mix_codes(const CodeMixArgs& a) noexcept {
  const std::size_t dims = a.pages.layout.padded_dims();
  const bool whole_vectors = dims / ValuePlanes<bits>::kParts % kCodeLanes == 0;
  if (a.rows <= kCodeRows && whole_vectors) return mix_tiles(ValuePlanes<bits>(a), a, a.next);
  alignas(64) std::uint8_t bytes[kPageTokens * kMaxCodedDims];
  whole_vectors ? decode_values<bits>(a, bytes) : smaller::decode_values<bits>(a, bytes);
  constexpr int kKind = bits <= kCoarseBits ? kCoarseBits : bits <= 6 ? 6 : 8;
  mix_tiles(ValueBytes<kKind>{bytes, dims}, a, kNothing);
}

template void mix_codes<1>(const CodeMixArgs&) noexcept;
template void mix_codes<2>(const CodeMixArgs&) noexcept;
template void mix_codes<3>(const CodeMixArgs&) noexcept;
template void mix_codes<4>(const CodeMixArgs&) noexcept;
template void mix_codes<5>(const CodeMixArgs&) noexcept;
template void mix_codes<6>(const CodeMixArgs&) noexcept;
template void mix_codes<7>(const CodeMixArgs&) noexcept;
template void mix_codes<8>(const CodeMixArgs&) noexcept;
template void decode_values<1>(const CodeMixArgs&, std::uint8_t*) noexcept;
template void decode_values<2>(const CodeMixArgs&, std::uint8_t*) noexcept;
template void decode_values<3>(const CodeMixArgs&, std::uint8_t*) noexcept;
template void decode_values<4>(const CodeMixArgs&, std::uint8_t*) noexcept;
template void decode_values<5>(const CodeMixArgs&, std::uint8_t*) noexcept;
template void decode_values<6>(const CodeMixArgs&, std::uint8_t*) noexcept;
template void decode_values<7>(const CodeMixArgs&, std::uint8_t*) noexcept;
template void decode_values<8>(const CodeMixArgs&, std::uint8_t*) noexcept;
