// Bytes of pages of values, and weights as whole numbers. Included in mix_<tier>.cpp before what multiplies them.

namespace {

/// The bytes of a page of values, from its planes.
template <int bits>
struct ValuePlanes {
  static constexpr int kBits = bits;
  /// Of the dims: within each, all fields of a plane stand at the same places in their words.
  static constexpr int kParts = bits % 2 == 1 ? 4 : bits % 4 == 2 ? 2 : 1;
  const std::byte* page;
  std::size_t dims;
  Table table;

  explicit ValuePlanes(const CodeMixArgs& a)
      : page(a.page), dims(a.pages.layout.padded_dims()), table(value_table<bits>(a.pages.table)) {}

  template <int part, int half>
  struct Fields {
    const std::byte* page;
    std::size_t dims, dim, octet;

    static constexpr int piece(int width) { return part * (4 / width) / kParts; }
    static constexpr int at(int width) { return width == 0 ? 0 : width * (2 * piece(width) + half); }
    template <int width, int first_bit, int place>
    [[gnu::always_inline]] Words get() const {
      const auto index = static_cast<std::size_t>(piece(width));
      const std::size_t words = dims * width / 4, word = octet * words + dim - index * words;
      return move_bits<at(width), place>(load_words(page + 8 * dims * first_bit + 4 * word));
    }
  };

  /// A vector of dims of a part, for four tokens of 8.
  template <int part, int half>
  [[gnu::always_inline]] Words get(std::size_t dim, std::size_t octet) const {
    return read_bytes<bits>(table, Fields<part, half>{page, dims, dim, octet});
  }
};

/// The dims of a part that are in [first, end): none where the first is not below the second.
template <int part, class Values>
std::pair<std::size_t, std::size_t> dims_of_part(const Values& values, std::size_t first, std::size_t end) {
  const std::size_t size = values.dims / Values::kParts;
  return {std::max(first, part * size), std::min(end, (part + 1) * size)};
}

/// The same, decoded once for many rows.
template <int bits>
struct ValueBytes {
  static constexpr int kBits = bits, kParts = 1;
  const std::uint8_t* bytes;
  std::size_t dims;

  static std::size_t at(std::size_t dims, int half, std::size_t dim, std::size_t octet) {
    return 4 * ((2 * octet + static_cast<std::size_t>(half)) * dims + dim);
  }
  template <int part, int half>
  [[gnu::always_inline]] Words get(std::size_t dim, std::size_t octet) const {
    return load_words(bytes + at(dims, half, dim, octet));
  }
};

template <int part, int bits>
void decode_part(const ValuePlanes<bits>& values, std::size_t tokens, std::uint8_t* bytes, Prefetcher& prefetcher) {
  const auto [first, end] = dims_of_part<part>(values, 0, values.dims);
  for (std::size_t dim = first; dim < end; dim += kCodeLanes) {
    for (std::size_t octet = 0; 8 * octet < tokens; ++octet) {
      prefetcher.step();
      store_words(bytes + ValueBytes<bits>::at(values.dims, 0, dim, octet), values.template get<part, 0>(dim, octet));
      store_words(bytes + ValueBytes<bits>::at(values.dims, 1, dim, octet), values.template get<part, 1>(dim, octet));
    }
  }
}

/// All of a page; loads what comes next meanwhile.
template <int bits, int... parts>
void decode_parts(const CodeMixArgs& a, std::uint8_t* bytes, std::integer_sequence<int, parts...>) {
  const ValuePlanes<bits> values(a);
  Prefetcher prefetcher(a.next, values.dims / kCodeLanes * ((a.tokens + 7) / 8));
  (decode_part<parts>(values, a.tokens, bytes, prefetcher), ...);
}

inline std::int32_t whole_sum(F32 a) { return static_cast<std::int32_t>(sum(a)); }

/// A row's weights times the scales of one group, rounded.
struct RowWeights {
  WholeWeights whole;
  float unit;
  std::int32_t sum;    ///< of the whole numbers, where asked for
  std::int32_t start;  ///< where sums over tokens start

  template <bool coarse, bool summed>
  [[gnu::always_inline]] void set(const F32 (&products)[kTokenVectors], float peak) {
    constexpr float kMost = coarse ? kCoarseWeight : kFineWeight;
    const bool any = peak >= kNegligible;
    const F32 factor = broadcast(any ? kMost / peak : 0);
    unit = any ? peak / kMost : 0;
    I32 rounded[kTokenVectors], total = broadcast_i32(0);
    KVANT_UNROLL
    for (std::size_t i = 0; i < kTokenVectors; ++i) {
      F32 exact = products[i] * factor;
      if constexpr (coarse) exact = exact + load(kDither.data() + i * kCodeLanes);
      rounded[i] = to_i32(exact);
      if constexpr (summed) total = total + rounded[i];
    }
    sum = summed ? whole_sum(to_f32(total)) : 0;  // below 2^24: exact in any order
    whole.template set<coarse>(rounded);
  }
};

/// The scales of a group, 0 for what are no tokens.
[[gnu::always_inline]] inline void read_scales(F32 (&scales)[kTokenVectors], const CodeMixArgs& a, const Group& group) {
  load_scales(scales, a.pages, a.page, group.index, 0);
  if (a.tokens == kPageTokens) return;
  float all[kPageTokens];
  for (std::size_t i = 0; i < kTokenVectors; ++i) store(all + i * kCodeLanes, scales[i]);
  std::fill(all + a.tokens, all + kPageTokens, 0.0F);
  for (std::size_t i = 0; i < kTokenVectors; ++i) scales[i] = load(all + i * kCodeLanes);
}

/// Some rows of weights [rows][64]. summed: whether the sums of whole numbers matter.
template <bool coarse, bool summed, std::size_t rows>
[[gnu::always_inline]] inline void round_rows(const float* weights, const F32 (&scales)[kTokenVectors],
                                              RowWeights* to) {
  F32 products[rows][kTokenVectors], greatest[rows];
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    greatest[r] = zero();
    KVANT_UNROLL
    for (std::size_t i = 0; i < kTokenVectors; ++i) {
      products[r][i] = load(weights + r * kPageTokens + i * kCodeLanes) * scales[i];
      greatest[r] = max(greatest[r], products[r][i]);
    }
  }
  float peaks[(rows + 3) / 4 * 4];
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; r += 4) {
    const auto at = [&](std::size_t i) { return greatest[std::min(r + i, rows - 1)]; };
    max4(at(0), at(1), at(2), at(3), peaks + r);
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) to[r].template set<coarse, summed>(products[r], peaks[r]);
}

/// Calls round(weights [rows][64], scales) for `rows` (at most kCodeRows) from `first_row` on; where the page has fewer
/// tokens, both are 0 for the others.
template <class Round>
[[gnu::always_inline]] inline void with_scales(const CodeMixArgs& a, const Group& group, std::size_t first_row,
                                               std::size_t rows, Round&& round) {
  F32 scales[kTokenVectors];
  read_scales(scales, a, group);
  const float* weights = a.weights + first_row * kPageTokens;
  if (a.tokens == kPageTokens) return round(weights, scales);
  float padded[kCodeRows * kPageTokens];
  for (std::size_t r = 0; r < rows; ++r) {
    float* row = padded + r * kPageTokens;
    std::fill(std::copy_n(weights + r * kPageTokens, a.tokens, row), row + kPageTokens, 0.0F);
  }
  round(padded, scales);
}

template <bool coarse, bool summed, std::size_t rows>
void round_weights(const CodeMixArgs& a, const Group& group, std::size_t first_row, RowWeights* to) noexcept {
  with_scales(a, group, first_row, rows, [&](const float* weights, const F32(&scales)[kTokenVectors]) {
    round_rows<coarse, summed, rows>(weights, scales, to);
  });
}

template <class Values>
constexpr bool kCoarse = Values::kBits <= kCoarseBits;
/// Whether sums over tokens start at anything but 0.
template <class Values>
constexpr bool kSummed = Values::kBits > 6 || kValueBias<Values::kBits> != kTableOffset;

}  // namespace
