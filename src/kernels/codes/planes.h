// What score.h and mix.h share on every tier. Included at the end of lanes_<tier>.h.

template <int bits>
void score_codes(const CodeScoreArgs& args) noexcept;
template <int bits>
void mix_codes(const CodeMixArgs& args) noexcept;
/// The bytes of a page of values as mix_codes reads them, for four tokens of each dim together.
template <int bits>
void decode_values(const CodeMixArgs& args, std::uint8_t* bytes) noexcept;

constexpr std::size_t kCodeLanes = F32::kLanes;
constexpr std::size_t kTokenVectors = kPageTokens / kCodeLanes;

/// The bytes of codes: fields.at(width) tells where in each byte of words the fields of a plane begin,
/// fields.get<width, first_bit, place>() gives the words, moved so that they begin at `place`.
template <int bits, class Fields>
[[gnu::always_inline]] inline Words read_bytes(const Table& table, const Fields& fields) {
  if constexpr (bits == 7) {
    const Words high = select_bits<0x3f>(fields.template get<2, 4, 4>(), fields.template get<1, 6, 6>());
    return keep_bits<0x7f>(select_bits<0x0f>(fields.template get<4, 0, 0>(), high));
  } else if constexpr (bits == 8) {
    return select_bits<0x0f>(fields.template get<4, 0, 0>(), fields.template get<4, 4, 4>());
  } else {
    constexpr int kLow = low_width(bits), kHigh = bits - kLow;
    constexpr Places kAt = places<bits>({Fields::at(kLow), Fields::at(kHigh)});
    const Words low = fields.template get<kLow, 0, kAt.low>();
    if constexpr (kHigh == 0) return table.template look_up<bits, kAt>(low, low);
    return table.template look_up<bits, kAt>(low, fields.template get<kHigh, kLow, kAt.high>());
  }
}

/// What the sums of bytes (less `bias`) times whole numbers, which sum to `whole`, start from, so that after_sums of
/// them are the sums of the levels.
template <int bits>
[[gnu::always_inline]] inline std::int32_t before_sums(std::int32_t whole, std::int32_t bias = kByteBias) {
  return (bits > 6 ? bias : bias - kTableOffset) * whole;
}
template <int bits>
[[gnu::always_inline]] inline F32 after_sums(Words sums, const CodeTable& table, std::int32_t whole) {
  if constexpr (bits <= 6) return words_to_f32(sums);
  return words_to_f32(add(add(sums, sums), set_words(-table.offset * whole)));
}

/// The scales of some vectors of tokens, from `token` on.
template <std::size_t vectors>
[[gnu::always_inline]] inline void load_scales(F32 (&scales)[vectors], const CodedPages& pages, const std::byte* page,
                                               std::size_t group, std::size_t token) {
  const std::byte* p = page + pages.layout.scale_offset(group, token);
  if (pages.layout.scales() == codec::ScaleFormat::f16) {
    KVANT_UNROLL
    for (std::size_t i = 0; i < vectors; ++i) scales[i] = load_f16(p + 2 * i * kCodeLanes);
  } else {
    KVANT_UNROLL
    for (std::size_t i = 0; i < vectors; ++i) scales[i] = load_log_scales(p + i * kCodeLanes);
  }
}
