// Bytes of pages of keys, and logits from their sums. Included in score_<tier>.cpp before what multiplies them.

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

/// All of a page; loads what comes next meanwhile.
template <int bits, int... quads>
[[gnu::always_inline]] inline void decode(const CodeScoreArgs& a, std::uint8_t* bytes,
                                          std::integer_sequence<int, quads...>) {
  const KeyPlanes<bits> planes(a);
  Prefetcher prefetcher(a.next, planes.dims / 32 * ((a.tokens + kCodeLanes - 1) / kCodeLanes));
  for (std::size_t block = 0; block < planes.dims / 32; ++block) {
    for (std::size_t token = 0; token < a.tokens; token += kCodeLanes) {
      prefetcher.step();
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

/// Whether sums are added or begin the logits is a matter of where from these are read: no branch for each vector. What
/// stores of logits might change for all that the compiler knows is read before them.
template <int bits, std::size_t rows, std::size_t width>
[[gnu::always_inline]] inline void add_to_logits(const Sums<rows, width>& sums, const ScoreTile& tile,
                                                 const Group& group, std::size_t token) {
  const CodeScoreArgs& a = tile.args;
  const std::size_t groups = a.pages.layout.groups(), constants = tile.constants(0, group), second = tile.planes - 1;
  const float* units = a.q.units + constants;
  const std::int32_t* whole = a.q.sums + constants;
  const CodeTable& table = a.pages.table;
  const bool begins = group.first == 0 && !a.add;
  float* logits = a.logits + token;
  F32 scales[width];
  load_scales(scales, a.pages, a.page, group.index, token);
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    const std::size_t row = tile.first_row + r;
    float* to = logits + (row >> second) * kPageTokens;
    const float* from = begins && (row & second) == 0 ? kNoLogits.data() : to;
    const F32 unit = broadcast(units[r * groups]);
    KVANT_UNROLL
    for (std::size_t t = 0; t < width; ++t) {
      const F32 sum = after_sums<bits>(sums[r][t], table, whole[r * groups]);
      store(to + t * kCodeLanes, fma(unit * scales[t], sum, load(from + t * kCodeLanes)));
    }
  }
}

}  // namespace
