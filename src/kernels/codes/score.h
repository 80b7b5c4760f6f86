// Scores over the planes of keys on a tier of vectors. Included in score_<tier>.cpp, which gives the tier's lanes.

namespace {

/// The bytes of a page of keys, from its planes.
template <int bits>
struct KeyPlanes {
  static constexpr int kBits = bits;
  const std::byte* page;
  std::size_t dims;
  Table table;

  explicit KeyPlanes(const CodeScoreArgs& a) : page(a.page), dims(a.pages.layout.padded_dims()), table(a.pages.table) {}

  template <int quad>
  struct Fields {
    const std::byte* page;
    std::size_t dims, block, token;

    static constexpr int at(int width) { return width * quad % 8; }
    template <int width, int first_bit, int place>
    [[gnu::always_inline]] Words get() const {
      const std::size_t word = (block * width + width * quad / 8) * kPageTokens + token;
      return move_bits<at(width), place>(load_words(page + 8 * dims * first_bit + 4 * word));
    }
  };

  /// Dims 4 quad .. 4 quad + 3 of a block of 32, for a vector of tokens.
  template <int quad>
  [[gnu::always_inline]] Words get(std::size_t block, std::size_t token) const {
    return read_bytes<bits>(table, Fields<quad>{page, dims, block, token});
  }
};

/// The same, decoded once for many rows.
template <int bits>
struct KeyBytes {
  static constexpr int kBits = bits;
  const std::uint8_t* bytes;

  static std::size_t at(std::size_t block, int quad, std::size_t token) {
    return 4 * ((8 * block + static_cast<std::size_t>(quad)) * kPageTokens + token);
  }
  template <int quad>
  [[gnu::always_inline]] Words get(std::size_t block, std::size_t token) const {
    return load_words(bytes + at(block, quad, token));
  }
};

template <int bits, int... quads>
void decode(const CodeScoreArgs& a, std::uint8_t* bytes, std::integer_sequence<int, quads...>) {
  const KeyPlanes<bits> planes(a);
  for (std::size_t block = 0; block < planes.dims / 32; ++block) {
    for (std::size_t token = 0; token < a.tokens; token += kCodeLanes) {
      (store_words(bytes + KeyBytes<bits>::at(block, quads, token), planes.template get<quads>(block, token)), ...);
    }
  }
}

/// Some rows of one query plane each.
struct ScoreTile {
  const CodeScoreArgs& args;
  std::size_t first_row, planes, dims;

  ScoreTile(const CodeScoreArgs& a, std::size_t first)
      : args(a), first_row(first), planes(static_cast<std::size_t>(a.q.planes)), dims(a.pages.layout.padded_dims()) {}
  std::size_t constants(std::size_t row, const Group& group) const {
    return (first_row + row) * args.pages.layout.groups() + group.index;
  }
};

template <std::size_t rows, std::size_t width>
using Sums = Words[rows][width];

template <int quad, std::size_t rows, std::size_t width, class Keys>
[[gnu::always_inline]] inline void add_quad(Sums<rows, width>& sums, const Keys& keys,
                                            const QueryRows<rows, Keys::kBits>& values, std::size_t block,
                                            std::size_t token) {
  constexpr int kBits = Keys::kBits;
  Bytes<kBits> bytes[width];
  KVANT_UNROLL
  for (std::size_t t = 0; t < width; ++t)
    bytes[t] = to_bytes<kBits>(keys.template get<quad>(block, token + t * kCodeLanes));
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    const Whole<kBits>* four = values.four(r, 32 * block + 4 * quad);
    KVANT_UNROLL
    for (std::size_t t = 0; t < width; ++t) sums[r][t] = dot(sums[r][t], bytes[t], four);
  }
}

template <int bits, std::size_t rows, std::size_t width>
[[gnu::always_inline]] inline void add_to_logits(const Sums<rows, width>& sums, const ScoreTile& tile,
                                                 const Group& group, std::size_t token) {
  const CodeScoreArgs& a = tile.args;
  KVANT_UNROLL
  for (std::size_t t = 0; t < width; ++t) {
    const F32 scales = load_scales(a.pages, a.page, group.index, token + t * kCodeLanes);
    KVANT_UNROLL
    for (std::size_t r = 0; r < rows; ++r) {
      const std::size_t c = tile.constants(r, group), row = tile.first_row + r;
      const F32 sum = after_sums<bits>(sums[r][t], a.pages.table, a.q.sums[c]);
      const F32 factor = broadcast(a.q.units[c]) * scales;
      float* to = a.logits + row / tile.planes * kPageTokens + token + t * kCodeLanes;
      const bool fresh = group.first == 0 && row % tile.planes == 0 && !a.add;
      store(to, fma(factor, sum, fresh ? zero() : load(to)));
    }
  }
}

template <std::size_t rows, class Keys, int... quads>
[[gnu::always_inline]] inline void score_rows(const Keys keys, const ScoreTile tile, Upcoming next,
                                              std::integer_sequence<int, quads...>) {
  constexpr std::size_t kWidth = token_vectors(rows), kStep = kWidth * kCodeLanes;
  const CodeScoreArgs& a = tile.args;
  const QueryRows<rows, Keys::kBits> values{a.q.values + tile.first_row * tile.dims, tile.dims};
  Prefetcher prefetcher(next, kPageTokens / kStep * (tile.dims / codec::kPageDimBlock));
  for (Group group = group_at(a.pages, 0); group.count > 0; group = group_at(a.pages, group.first + group.count)) {
    for (std::size_t token = 0; token < a.tokens; token += kStep) {
      Sums<rows, kWidth> sums;
      KVANT_UNROLL
      for (std::size_t r = 0; r < rows; ++r) {
        KVANT_UNROLL
        for (std::size_t t = 0; t < kWidth; ++t) {
          sums[r][t] = set_words(before_sums<Keys::kBits>(a.q.sums[tile.constants(r, group)]));
        }
      }
      for (std::size_t block = group.first / 32; block < (group.first + group.count) / 32; ++block) {
        prefetcher.step();
        (add_quad<quads>(sums, keys, values, block, token), ...);
      }
      add_to_logits<Keys::kBits>(sums, tile, group, token);
    }
  }
}

template <std::size_t rows, class Keys>
void score_tile(const Keys& keys, const CodeScoreArgs& a, std::size_t first_row, Upcoming next) noexcept {
  score_rows<rows>(keys, {a, first_row}, next, std::make_integer_sequence<int, 8>{});
}

template <class Keys, std::size_t... i>
void score_tile_of(std::size_t rows, const Keys& keys, const CodeScoreArgs& a, std::size_t first_row, Upcoming next,
                   std::index_sequence<i...>) {
  static constexpr std::array<void (*)(const Keys&, const CodeScoreArgs&, std::size_t, Upcoming) noexcept, sizeof...(i)>
      kTiles{score_tile<i + 1, Keys>...};
  kTiles[rows - 1](keys, a, first_row, next);
}

template <class Keys>
void score_tile_of(std::size_t rows, const Keys& keys, const CodeScoreArgs& a, std::size_t first_row, Upcoming next) {
  score_tile_of(rows, keys, a, first_row, next, std::make_index_sequence<kCodeRows>{});
}

}  // namespace

template <int bits>
void score_codes(const CodeScoreArgs& a) noexcept {
  const std::size_t rows = a.rows * static_cast<std::size_t>(a.q.planes);
  if (rows <= kCodeRows) return score_tile_of(rows, KeyPlanes<bits>(a), a, 0, a.next);
  alignas(64) std::uint8_t bytes[kPageTokens * kMaxCodedDims];
  decode<bits>(a, bytes, std::make_integer_sequence<int, 8>{});
  constexpr int kKind = bits <= kCoarseBits ? kCoarseBits : bits <= 6 ? 6 : 8;
  const KeyBytes<kKind> keys{bytes};
  const std::size_t planes = rows / a.rows,
                    step = kCodeRows / planes * planes;  // the planes of a row stay together
  for (std::size_t first = 0; first < rows; first += step) {
    score_tile_of(std::min(step, rows - first), keys, a, first, first == 0 ? a.next : Upcoming{});
  }
}

template void score_codes<1>(const CodeScoreArgs&) noexcept;
template void score_codes<2>(const CodeScoreArgs&) noexcept;
template void score_codes<3>(const CodeScoreArgs&) noexcept;
template void score_codes<4>(const CodeScoreArgs&) noexcept;
template void score_codes<5>(const CodeScoreArgs&) noexcept;
template void score_codes<6>(const CodeScoreArgs&) noexcept;
template void score_codes<7>(const CodeScoreArgs&) noexcept;
template void score_codes<8>(const CodeScoreArgs&) noexcept;
