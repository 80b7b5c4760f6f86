#include <algorithm>
#include <bit>

#include "kernels/matmul/formats_avx512.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
#include "kernels/matmul/transpose_avx512.h"

namespace kvant::kernels::avx512 {
namespace {

constexpr std::size_t kColumns = GemmArgs::kMaxRows;
constexpr std::size_t kVectors = kColumns / 16;
constexpr std::size_t kXRows = 4;  // 12 integer and 12 float sums, 3 weights and 1 activation in 32 registers

/// 256 values of 48 rows of weights. The four codes of a lane are those of ActivationBlock; a step is one lane of all
/// rows, and the 8 steps of a group follow each other: 4 of its values 0-15, then 4 of its values 16-31.
struct Panel {
  std::uint8_t codes[64][kColumns][4];
  float scale[16][kColumns];  // of 8 groups, or 16 halves of groups
  float min[16][kColumns];    // subtracted
};
static_assert(sizeof(Panel) <= GemmArgs::kPanelBytes);

/// Codes of 16 rows, one register each, to the panel: `part` 0 values 0-15, 1 values 16-31 of a half's groups.
void pack_codes(__m512i (&rows)[16], std::size_t half, std::size_t part, std::size_t first, Panel& panel) noexcept {
  transpose(rows);
  for (std::size_t j = 0; j < 16; ++j) {
    _mm512_store_si512(panel.codes[32 * half + j / 4 * 8 + 4 * part + j % 4][first], rows[j]);
  }
}

/// Lanes kStride * i of 16 rows to out[i].
template <std::size_t kCount, std::size_t kStride>
void pack_scales(__m512i (&rows)[16], std::size_t first, float (*out)[kColumns]) noexcept {
  transpose(rows);
  for (std::size_t i = 0; i < kCount; ++i) _mm512_store_si512(out[i] + first, rows[kStride * i]);
}

/// Types of 32-value blocks.
template <class Format_>
struct Blocks {
  using Format = Format_;
  static constexpr std::size_t kBytes = 8 * sizeof(typename Format::Block);
  static constexpr std::size_t kScales = 8;
  static constexpr bool kHasMin = Format::kHasMin;
  static constexpr int kOffset = Format::kOffset;

  /// Columns [first, first + 16) of a panel from 16 pointers to 256 values each.
  static void pack(const std::byte* const (&rows)[16], std::size_t first, Panel& panel) noexcept {
    for (std::size_t half = 0; half < 2; ++half) {
      __m512i low[16], high[16], d[16], m[16];
      for (std::size_t i = 0; i < 16; ++i) {
        const Format w = Format::load(rows[i] + half * (kBytes / 2));
        low[i] = w.codes.low;
        high[i] = w.codes.high;
        d[i] = _mm512_castps_si512(w.d);
        if constexpr (kHasMin) m[i] = _mm512_castps_si512(_mm512_sub_ps(_mm512_setzero_ps(), w.m));
      }
      pack_codes(low, half, 0, first, panel);
      pack_codes(high, half, 1, first, panel);
      pack_scales<4, 4>(d, first, panel.scale + 4 * half);
      if constexpr (kHasMin) pack_scales<4, 4>(m, first, panel.min + 4 * half);
    }
  }
};

/// Superblocks.
template <class Format_>
struct Super {
  using Format = Format_;
  static constexpr std::size_t kBytes = sizeof(typename Format::Block);
  static constexpr std::size_t kScales = Format::kScales;
  static constexpr bool kHasMin = Format::kHasMin || kScales == 16;
  static constexpr int kOffset = kScales == 16 ? 0 : Format::kOffset;  // with 16 scales it is a min

  static void pack(const std::byte* const (&rows)[16], std::size_t first, Panel& panel) noexcept {
    __m512i low[2][16], high[2][16], scale[16], min[16];
    for (std::size_t i = 0; i < 16; ++i) {
      const Format w = Format::load(rows[i]);
      for (std::size_t half = 0; half < 2; ++half) {
        low[half][i] = w.codes[half].low;
        high[half][i] = w.codes[half].high;
      }
      scale[i] = _mm512_castps_si512(w.scale);
      if constexpr (kScales == 16) min[i] = _mm512_castps_si512(w.minus());
    }
    for (std::size_t half = 0; half < 2; ++half) {
      pack_codes(low[half], half, 0, first, panel);
      pack_codes(high[half], half, 1, first, panel);
    }
    pack_scales<kScales, 1>(scale, first, panel.scale);
    if constexpr (kScales == 16) {
      pack_scales<16, 1>(min, first, panel.min);
    } else if constexpr (kHasMin) {  // lanes 8-15 of the scales
      for (std::size_t i = 0; i < 8; ++i) _mm512_store_si512(panel.min[i] + first, scale[8 + i]);
    }
  }
};

__m512i lane_to_all(const std::int8_t* q) noexcept { return _mm512_set1_epi32(static_cast<int>(load_u32(q))); }

/// Adds the products of a group, or half a group, to the float sums of kRows rows of x.
template <class Type, std::size_t kRows>
[[gnu::always_inline]] inline void finish(const __m512i (&products)[kRows][kVectors], const Panel& panel,
                                          const ActivationBlock* x, std::size_t group, std::size_t part,
                                          __m512 (&sums)[kRows][kVectors]) noexcept {
  const std::size_t s = Type::kScales == 8 ? group : 2 * group + part;
  KVANT_UNROLL
  for (std::size_t v = 0; v < kVectors; ++v) {
    const __m512 w_scale = _mm512_load_ps(panel.scale[s] + 16 * v);
    KVANT_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) {
      const __m512 scale = _mm512_mul_ps(w_scale, _mm512_set1_ps(x[r].scale[group]));
      sums[r][v] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[r][v]), scale, sums[r][v]);
    }
    if constexpr (Type::kHasMin) {
      const __m512 min = _mm512_load_ps(panel.min[s] + 16 * v);
      KVANT_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        sums[r][v] = Type::kScales == 8 ? _mm512_fmadd_ps(min, _mm512_set1_ps(x[r].minus_sum[group]), sums[r][v])
                                        : _mm512_fnmadd_ps(min, _mm512_set1_ps(x[r].half_sum[s]), sums[r][v]);
      }
    }
  }
}

/// Adds the product of kRows rows of x, at adjacent blocks, and a panel to `totals`.
template <class Type, std::size_t kRows>
void tile(const Panel& panel, const ActivationBlock* x, float (*totals)[kColumns]) noexcept {
  __m512 sums[kRows][kVectors];
  KVANT_UNROLL
  for (std::size_t r = 0; r < kRows; ++r) {
    KVANT_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = _mm512_load_ps(totals[r] + 16 * v);
  }
  for (std::size_t group = 0; group < 8; ++group) {
    __m512i products[kRows][kVectors];
    KVANT_UNROLL
    for (std::size_t r = 0; r < kRows; ++r) {
      __m512i start = _mm512_setzero_si512();
      if constexpr (Type::kOffset != 0) {
        const __m512i sum = _mm512_set1_epi32(x[r].negative_group_sum[group]);
        start = _mm512_slli_epi32(sum, std::countr_zero(unsigned{Type::kOffset}));
      }
      KVANT_UNROLL
      for (std::size_t v = 0; v < kVectors; ++v) products[r][v] = start;
    }
    const std::uint8_t(*codes)[kColumns][4] = panel.codes + 8 * group;
    const std::size_t at = group / 4 * 128 + group % 4 * 16;
    for (std::size_t part = 0; part < 2; ++part) {
      KVANT_UNROLL
      for (std::size_t s = 0; s < 4; ++s) {
        __m512i w[kVectors];
        KVANT_UNROLL
        for (std::size_t v = 0; v < kVectors; ++v) w[v] = _mm512_load_si512(codes[4 * part + s][16 * v]);
        KVANT_UNROLL
        for (std::size_t r = 0; r < kRows; ++r) {
          const __m512i q = lane_to_all(x[r].q[0] + at + 64 * part + 4 * s);
          KVANT_UNROLL
          for (std::size_t v = 0; v < kVectors; ++v) products[r][v] = _mm512_dpbusd_epi32(products[r][v], w[v], q);
        }
      }
      if constexpr (Type::kScales == 16) {
        finish<Type, kRows>(products, panel, x, group, part, sums);
        KVANT_UNROLL
        for (auto& row : products) {
          KVANT_UNROLL
          for (__m512i& p : row) p = _mm512_setzero_si512();
        }
      }
    }
    if constexpr (Type::kScales == 8) finish<Type, kRows>(products, panel, x, group, 0, sums);
  }
  KVANT_UNROLL
  for (std::size_t r = 0; r < kRows; ++r) {
    KVANT_UNROLL
    for (std::size_t v = 0; v < kVectors; ++v) _mm512_store_ps(totals[r] + 16 * v, sums[r][v]);
  }
}

#include "kernels/matmul/gemm.h"

template <class Type>
void gemm(const GemmArgs& a) noexcept {
  gemm_panels<Type, Panel, 16>(a);
}

}  // namespace

void gemm_q4_0(const GemmArgs& a) noexcept { gemm<Blocks<Q4_0>>(a); }
void gemm_q4_1(const GemmArgs& a) noexcept { gemm<Blocks<Q4_1>>(a); }
void gemm_q5_0(const GemmArgs& a) noexcept { gemm<Blocks<Q5_0>>(a); }
void gemm_q5_1(const GemmArgs& a) noexcept { gemm<Blocks<Q5_1>>(a); }
void gemm_q8_0(const GemmArgs& a) noexcept { gemm<Blocks<Q8_0>>(a); }
void gemm_iq4_nl(const GemmArgs& a) noexcept { gemm<Blocks<IQ4_NL>>(a); }
void gemm_q2_k(const GemmArgs& a) noexcept { gemm<Super<Q2_K>>(a); }
void gemm_q3_k(const GemmArgs& a) noexcept { gemm<Super<Q3_K>>(a); }
void gemm_q4_k(const GemmArgs& a) noexcept { gemm<Super<Q4_K>>(a); }
void gemm_q5_k(const GemmArgs& a) noexcept { gemm<Super<Q5_K>>(a); }
void gemm_q6_k(const GemmArgs& a) noexcept { gemm<Super<Q6_K>>(a); }
void gemm_iq4_xs(const GemmArgs& a) noexcept { gemm<Super<IQ4_XS>>(a); }

}  // namespace kvant::kernels::avx512
KVANT_TARGET_END
#endif
