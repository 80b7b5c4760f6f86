// Panels, packing and tiles of the prefill kernels with 256-bit registers. Included in gemm_<tier>.cpp behind all other
// headers, inside its namespace and target region.
//
// How codes meet activations is a Kind: its Code is what a panel holds, its Rows the rows of x of a tile; `add` takes 4
// steps, the activations from byte `at` of their codes on; `whole` makes 32-bit numbers of sums.

constexpr std::size_t kColumns = GemmArgs::kMaxRows;
constexpr std::size_t kVectors = 2;          // of 8 columns
constexpr std::size_t kUnit = 8 * kVectors;  // columns that a tile takes at a time
constexpr std::size_t kUnits = kColumns / kUnit;
constexpr std::size_t kXRows = 4;  // 8 sums, up to 4 weights and 2 activations in 16 registers

/// 256 values of 48 rows of weights. The four codes of a lane are those of ActivationBlock; a step is one lane of all
/// rows, and the 8 steps of a group follow each other: 4 of its values 0-15, then 4 of its values 16-31. Registers are
/// stored whole: of a step as bytes its columns 0-7 and 8-15, as 16-bit codes the even bytes of each, then the odd
/// ones.
template <class Code>
struct Panel {
  Code codes[kUnits][64][kUnit * 4];
  float scale[16][kColumns];  // of 8 groups, or 16 halves of groups
  float min[16][kColumns];    // subtracted
};
static_assert(sizeof(Panel<std::int16_t>) <= GemmArgs::kPanelBytes);

template <std::size_t kRows>
using Products = __m256i[kRows][kVectors];

__m256i load_codes(const void* p) noexcept { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
__m256i lane_to_all(const void* q) noexcept { return _mm256_set1_epi32(load<int>(q)); }
/// Bytes 0 and 2, and bytes 1 and 3, of each dword as two 16-bit numbers.
[[maybe_unused]] __m256i even_bytes(__m256i a) noexcept { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
[[maybe_unused]] __m256i odd_bytes(__m256i a) noexcept { return _mm256_srai_epi16(a, 8); }

/// Keeps a sum where it is: g++ would compute many products first, to add them later, and run out of registers.
[[gnu::always_inline]] inline void settle(__m256i& sum) noexcept { asm("" : "+x"(sum)); }

/// Rows of x whose codes are read where they are.
struct ByteRows {
  const ActivationBlock* x;
  explicit ByteRows(const ActivationBlock* blocks) noexcept : x(blocks) {}
  const std::int8_t* at(std::size_t r, std::size_t byte) const noexcept { return x[r].q[0] + byte; }
};

/// Codes of 8 rows, one register each, to columns [first, first + 8) of the panel: registers j of a half's groups,
/// `part` 0 values 0-15, 1 values 16-31.
template <class Code>
void pack_codes(__m256 (&rows)[8], std::size_t half, std::size_t j, std::size_t part, std::size_t first,
                Panel<Code>& panel) noexcept {
  transpose(rows);
  for (std::size_t i = 0; i < 8; ++i) {
    const std::size_t step = 32 * half + (2 * j + i / 4) * 8 + 4 * part + i % 4;
    auto* to = reinterpret_cast<__m256i*>(panel.codes[first / kUnit][step] + first % kUnit * 4);
    const __m256i codes = _mm256_castps_si256(rows[i]);
    if constexpr (sizeof(Code) == 1) {
      _mm256_store_si256(to, codes);
    } else {
      _mm256_store_si256(to, even_bytes(codes));
      _mm256_store_si256(to + 1, odd_bytes(codes));
    }
  }
}

/// Lanes kStride * i of 8 rows to out[i].
template <std::size_t kCount, std::size_t kStride>
void pack_scales(__m256 (&rows)[8], std::size_t first, float (*out)[kColumns]) noexcept {
  transpose(rows);
  for (std::size_t i = 0; i < kCount; ++i) _mm256_store_ps(out[i] + first, rows[kStride * i]);
}

/// The codes of a half of 8 rows.
template <class Code, class CodesOfRow>
void pack_half(std::size_t half, std::size_t first, Panel<Code>& panel, const CodesOfRow& codes_of) noexcept {
  for (std::size_t j = 0; j < 2; ++j) {
    __m256 low[8], high[8];
    for (std::size_t i = 0; i < 8; ++i) {
      const Codes codes = codes_of(i);
      low[i] = _mm256_castsi256_ps(codes.low[j]);
      high[i] = _mm256_castsi256_ps(codes.high[j]);
    }
    pack_codes(low, half, j, 0, first, panel);
    pack_codes(high, half, j, 1, first, panel);
  }
}

/// Types of 32-value blocks. An offset of the codes counts as a min.
template <class Format, class Products_>
struct Blocks {
  using Kind = Products_;
  static constexpr std::size_t kBytes = 8 * sizeof(typename Format::Block);
  static constexpr std::size_t kScales = 8;
  static constexpr bool kHasMin = Format::kHasMin || Format::kOffset != 0;

  /// Columns [first, first + 8) of a panel from 8 pointers to 256 values each.
  static void pack(const std::byte* const (&rows)[8], std::size_t first, Panel<typename Kind::Code>& panel) noexcept {
    for (std::size_t half = 0; half < 2; ++half) {
      Format w[8];
      for (std::size_t i = 0; i < 8; ++i) w[i] = Format::load(rows[i] + half * (kBytes / 2));
      pack_half(half, first, panel, [&](std::size_t i) { return w[i].codes; });
      for (std::size_t j = 0; j < 2; ++j) {
        __m256 d[8], m[8];
        for (std::size_t i = 0; i < 8; ++i) {
          d[i] = w[i].d[j];
          if constexpr (Format::kHasMin) m[i] = _mm256_sub_ps(_mm256_setzero_ps(), w[i].m[j]);
          if constexpr (Format::kOffset != 0) m[i] = _mm256_mul_ps(d[i], _mm256_set1_ps(Format::kOffset));
        }
        pack_scales<2, 4>(d, first, panel.scale + 4 * half + 2 * j);
        if constexpr (kHasMin) pack_scales<2, 4>(m, first, panel.min + 4 * half + 2 * j);
      }
    }
  }
};

/// Superblocks.
template <class Format, class Products_>
struct Super {
  using Kind = Products_;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  static constexpr std::size_t kScales = Format::kScales;
  static constexpr bool kHasMin = Format::kHasMin || kScales == 16;

  static void pack(const std::byte* const (&rows)[8], std::size_t first, Panel<typename Kind::Code>& panel) noexcept {
    Format w[8];
    for (std::size_t i = 0; i < 8; ++i) w[i] = Format::load(rows[i]);
    for (std::size_t half = 0; half < 2; ++half) {
      pack_half(half, first, panel, [&](std::size_t i) { return w[i].codes(static_cast<int>(half)); });
      if constexpr (kScales == 16) {
        pack_lanes([&](std::size_t i) { return w[i].scale[half]; }, first, panel.scale + 8 * half);
        pack_lanes([&](std::size_t i) { return w[i].min[half]; }, first, panel.min + 8 * half);
      }
    }
    if constexpr (kScales == 8) {
      pack_lanes([&](std::size_t i) { return w[i].scale; }, first, panel.scale);
      if constexpr (kHasMin) pack_lanes([&](std::size_t i) { return w[i].min; }, first, panel.min);
    }
  }

 private:
  template <class OfRow>
  static void pack_lanes(const OfRow& of_row, std::size_t first, float (*out)[kColumns]) noexcept {
    __m256 rows[8];
    for (std::size_t i = 0; i < 8; ++i) rows[i] = of_row(i);
    pack_scales<8, 1>(rows, first, out);
  }
};

/// Adds the products of a group, or half a group, of one unit to `totals`, and empties them.
template <class Type, std::size_t kRows>
[[gnu::always_inline]] inline void finish(Products<kRows>& products, const Panel<typename Type::Kind::Code>& panel,
                                          const ActivationBlock* x, std::size_t group, std::size_t part,
                                          std::size_t column, float (*totals)[kColumns]) noexcept {
  const std::size_t s = Type::kScales == 8 ? group : 2 * group + part;
  KVANT_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) {
    const std::size_t c = column + 8 * v;
    const __m256 w_scale = _mm256_load_ps(panel.scale[s] + c);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m256 scale = _mm256_mul_ps(w_scale, _mm256_broadcast_ss(x[r].scale + group));
      __m256 sum = _mm256_load_ps(totals[r] + c);
      if constexpr (Type::kHasMin) {
        const __m256 min = _mm256_load_ps(panel.min[s] + c);
        sum = Type::kScales == 8 ? _mm256_fmadd_ps(min, _mm256_broadcast_ss(x[r].minus_sum + group), sum)
                                 : _mm256_fnmadd_ps(min, _mm256_broadcast_ss(x[r].half_sum + s), sum);
      }
      sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(Type::Kind::whole(products[r][v])), scale, sum);
      _mm256_store_ps(totals[r] + c, sum);
      products[r][v] = _mm256_setzero_si256();
    }
  }
}

/// Adds the product of kRows rows of x, at adjacent blocks, and a panel to `totals`.
template <class Type, std::size_t kRows>
void tile(const Panel<typename Type::Kind::Code>& panel, const ActivationBlock* x, float (*totals)[kColumns]) noexcept {
  using Kind = typename Type::Kind;
  const typename Kind::template Rows<kRows> rows(x);
  for (std::size_t unit = 0; unit < kUnits; ++unit) {
    Products<kRows> products = {};
    for (std::size_t group = 0; group < 8; ++group) {
      const std::size_t at = group / 4 * 128 + group % 4 * 16;
      KVANT_UNROLL
      for (std::size_t part = 0; part < 2; ++part) {
        Kind::template add<kRows>(panel.codes[unit] + 8 * group + 4 * part, rows, at + 64 * part, products);
        if (Type::kScales == 16 || part == 1) {
          finish<Type, kRows>(products, panel, x, group, part, unit * kUnit, totals);
        }
      }
    }
  }
}

#include "kernels/matmul/gemm.h"

template <class Type>
void gemm(const GemmArgs& a) noexcept {
  gemm_panels<Type, Panel<typename Type::Kind::Code>, 8>(a);
}
