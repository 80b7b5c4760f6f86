#include "kernels/codes/avx512.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::avx512 {
namespace {

/// The bytes of a page of values, from its planes: 16 dims of four tokens. A vector may need two pieces of the 1-bit
/// plane, of 8 dims each, where dims are no multiple of 64: `split`.
template <int bits, bool split>
class ValuePlanes {
 public:
  static constexpr int kBits = bits;

  explicit ValuePlanes(const CodeMixArgs& a)
      : page_(a.page), dims_(a.pages.layout.padded_dims()), table_(load_words(a.pages.table.bytes.data())) {}

  /// A column of 16 dims.
  struct Column {
    const ValuePlanes& values;
    std::size_t dim;
    __m512i turns1, turns2;  // by how much the words of a plane turn for the first four tokens of 8

    Column(const ValuePlanes& v, std::size_t first) : values(v), dim(first) {
      turns2 = _mm512_set1_epi32(static_cast<int>(4 * (dim / (v.dims_ / 2))));
      const auto turn1 = [&](std::size_t d) { return _mm256_set1_epi32(static_cast<int>(2 * (d / (v.dims_ / 4)))); };
      turns1 = _mm512_inserti64x4(_mm512_castsi256_si512(turn1(dim)), turn1(dim + 8), 1);
    }

    template <int half>
    struct Fields {
      const Column& column;
      std::size_t octet;

      template <int width, int first_bit>
      [[gnu::always_inline]] __m512i get() const {
        const std::size_t words = column.values.dims_ * width / 4;
        const std::byte* plane = column.values.page_ + 8 * column.values.dims_ * first_bit + 4 * octet * words;
        if constexpr (width == 4) {
          return turn_right<(4 * half - first_bit + 32) % 32>(load_words(plane + 4 * column.dim));
        }
        const __m512i turns =
            _mm512_add_epi32(width == 2 ? column.turns2 : column.turns1, _mm512_set1_epi32(width * half - first_bit));
        const std::byte* at = plane + 4 * (column.dim % words);
        if constexpr (width == 1 && split) {
          const auto piece = [](const std::byte* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); };
          const __m256i upper = piece(plane + 4 * ((column.dim + 8) % words));
          return _mm512_rorv_epi32(_mm512_inserti64x4(_mm512_castsi256_si512(piece(at)), upper, 1), turns);
        }
        return _mm512_rorv_epi32(load_words(at), turns);
      }
    };

    template <int half>
    [[gnu::always_inline]] __m512i get(std::size_t octet) const {
      return bytes_of<bits>(join_planes<bits>(Fields<half>{*this, octet}), values.table_);
    }
  };
  [[gnu::always_inline]] Column column(std::size_t dim) const { return {*this, dim}; }

 private:
  const std::byte* page_;
  std::size_t dims_;
  __m512i table_;
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
    [[gnu::always_inline]] __m512i get(std::size_t octet) const {
      return _mm512_load_si512(bytes + 4 * (2 * octet + half) * dims);
    }
  };
  Column column(std::size_t dim) const { return {bytes + 4 * dim, dims}; }
};

template <int bits, bool split>
void decode(const CodeMixArgs& a, std::uint8_t* bytes) {
  const std::size_t dims = a.pages.layout.padded_dims();
  const ValuePlanes<bits, split> planes(a);
  for (std::size_t dim = 0; dim < dims; dim += kCodeLanes) {
    const auto column = planes.column(dim);
    for (std::size_t octet = 0; 8 * octet < a.tokens; ++octet) {
      std::uint8_t* to = bytes + 4 * (2 * octet * dims + dim);
      _mm512_store_si512(to, column.template get<0>(octet));
      _mm512_store_si512(to + 4 * dims, column.template get<1>(octet));
    }
  }
}

/// A row's weights for one group: whole = 128 * high + low.
struct RowWeights {
  alignas(64) std::array<std::int8_t, kPageTokens> high, low;
  float unit;
  std::int32_t sum;

  void set(const float* weights, const __m512 (&scales)[4], std::size_t tokens) {
    __m512 products[4];
    KVANT_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
      const std::size_t left = tokens - std::min(tokens, i * kCodeLanes);
      const auto mask = static_cast<__mmask16>(left >= kCodeLanes ? 0xffff : (1U << left) - 1);
      products[i] = _mm512_maskz_mul_ps(mask, _mm512_maskz_loadu_ps(mask, weights + i * kCodeLanes), scales[i]);
    }
    const float peak = _mm512_reduce_max_ps(
        _mm512_max_ps(_mm512_max_ps(products[0], products[1]), _mm512_max_ps(products[2], products[3])));
    unit = peak < kNegligible ? 0 : peak / kMaxWeight;
    const __m512 factor = _mm512_set1_ps(peak < kNegligible ? 0 : kMaxWeight / peak);
    __m512i whole[4];
    KVANT_UNROLL
    for (std::size_t i = 0; i < 4; ++i) whole[i] = _mm512_cvtps_epi32(_mm512_mul_ps(products[i], factor));
    sum = _mm512_reduce_add_epi32(
        _mm512_add_epi32(_mm512_add_epi32(whole[0], whole[1]), _mm512_add_epi32(whole[2], whole[3])));
    const __m512i first = even_parts(whole[0], whole[1]), second = even_parts(whole[2], whole[3]);
    const __m512i mask = _mm512_set1_epi16(127);
    store(low, _mm512_and_si512(first, mask), _mm512_and_si512(second, mask));
    store(high, _mm512_srli_epi16(first, 7), _mm512_srli_epi16(second, 7));
  }

 private:
  /// The low 16 bits of each 32, in order.
  static __m512i even_parts(__m512i a, __m512i b) {
    const __m512i order = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26,
                                           24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_permutex2var_epi16(a, order, b);
  }
  /// The low 8 bits of each 16.
  static void store(std::array<std::int8_t, kPageTokens>& to, __m512i a, __m512i b) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.data()), _mm512_cvtepi16_epi8(a));
    _mm256_store_si256(reinterpret_cast<__m256i*>(to.data() + 32), _mm512_cvtepi16_epi8(b));
  }
};

template <int half, std::size_t rows, class Column>
[[gnu::always_inline]] inline void add_four_tokens(__m512i (&high)[rows], __m512i (&low)[rows], const Column& column,
                                                   const RowWeights* weights, std::size_t octet) {
  const __m512i bytes = column.template get<half>(octet);
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    high[r] = dot_four(high[r], bytes, weights[r].high.data() + 8 * octet + 4 * half);
    low[r] = dot_four(low[r], bytes, weights[r].low.data() + 8 * octet + 4 * half);
  }
}

/// 16 dims of the result.
template <std::size_t rows, class Values>
[[gnu::always_inline]] inline void mix_column(const Values& values, const CodeMixArgs& a, const RowWeights* weights,
                                              const float* rescale, float* out, std::size_t dim) {
  const std::size_t dims = a.pages.layout.padded_dims(), octets = (a.tokens + 7) / 8;
  const auto column = values.column(dim);
  __m512i high[rows], low[rows];
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    high[r] = _mm512_setzero_si512();
    low[r] = before_sums<Values::kBits>(a.pages.table, weights[r].sum);
  }
  for (std::size_t octet = 0; octet < octets; ++octet) {
    add_four_tokens<0>(high, low, column, weights, octet);
    add_four_tokens<1>(high, low, column, weights, octet);
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < rows; ++r) {
    const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(high[r], 7), low[r]);
    const __m512 sum = after_sums<Values::kBits>(whole, a.pages.table, weights[r].sum);
    const __m512 kept = _mm512_mul_ps(_mm512_set1_ps(rescale[r]), _mm512_loadu_ps(out + r * dims + dim));
    _mm512_storeu_ps(out + r * dims + dim, _mm512_fmadd_ps(_mm512_set1_ps(weights[r].unit), sum, kept));
  }
}

template <std::size_t rows, class Values>
void mix_tile(const Values& values, const CodeMixArgs& a, std::size_t first_row, Upcoming next) noexcept {
  const std::size_t dims = a.pages.layout.padded_dims();
  const Values local = values;
  float* out = a.out + first_row * dims;
  Prefetcher prefetcher(next, dims / kCodeLanes);
  for (Group group = group_at(a.pages, 0); group.count > 0; group = group_at(a.pages, group.first + group.count)) {
    __m512 scales[kPageTokens / kCodeLanes];
    KVANT_UNROLL
    for (std::size_t i = 0; i < 4; ++i) scales[i] = load_scales(a.pages, a.page, group.index, i * kCodeLanes);
    RowWeights weights[rows];
    for (std::size_t r = 0; r < rows; ++r) {
      weights[r].set(a.weights + (first_row + r) * kPageTokens, scales, a.tokens);
    }
    for (std::size_t dim = group.first; dim < group.first + group.count; dim += kCodeLanes) {
      prefetcher.step();
      mix_column<rows>(local, a, weights, a.rescale + first_row, out, dim);
    }
  }
}

template <class Values>
void mix_tile_of(std::size_t rows, const Values& values, const CodeMixArgs& a, std::size_t first_row, Upcoming next) {
  static constexpr std::array<void (*)(const Values&, const CodeMixArgs&, std::size_t, Upcoming) noexcept, kCodeRows>
      kTiles{mix_tile<1, Values>, mix_tile<2, Values>, mix_tile<3, Values>,
             mix_tile<4, Values>, mix_tile<5, Values>, mix_tile<6, Values>};
  kTiles[rows - 1](values, a, first_row, next);
}

}  // namespace

template <int bits>
void mix_codes(const CodeMixArgs& a) noexcept {
  const bool split = bits % 2 == 1 && a.pages.layout.padded_dims() % 64 != 0;
  if (a.rows <= kCodeRows && !split) return mix_tile_of(a.rows, ValuePlanes<bits, false>(a), a, 0, a.next);
  alignas(64) std::uint8_t bytes[kPageTokens * kMaxCodedDims];
  split ? decode<bits, bits % 2 == 1>(a, bytes) : decode<bits, false>(a, bytes);
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

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
