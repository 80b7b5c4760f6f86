// Scores over the planes of keys on a tier of vectors. Included in score_<tier>.cpp, which gives the tier's
// lanes, after keys.h.
namespace {

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

template <std::size_t rows, class Keys, int... quads>
[[gnu::always_inline]] inline void score_rows(const Keys keys, const ScoreTile tile, const Upcoming& next,
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
void score_tile(const Keys& keys, const CodeScoreArgs& a, std::size_t first_row, const Upcoming& next) noexcept {
  score_rows<rows>(keys, {a, first_row}, next, std::make_integer_sequence<int, 8>{});
}

template <class Keys, std::size_t... i>
void score_tile_of(std::size_t rows, const Keys& keys, const CodeScoreArgs& a, std::size_t first_row,
                   const Upcoming& next, std::index_sequence<i...>) {
  static constexpr std::array<void (*)(const Keys&, const CodeScoreArgs&, std::size_t, const Upcoming&) noexcept,
                              sizeof...(i)>
      kTiles{score_tile<i + 1, Keys>...};
  kTiles[rows - 1](keys, a, first_row, next);
}

template <class Keys>
void score_tile_of(std::size_t rows, const Keys& keys, const CodeScoreArgs& a, std::size_t first_row,
                   const Upcoming& next) {
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
    score_tile_of(std::min(step, rows - first), keys, a, first, kNothing);
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
