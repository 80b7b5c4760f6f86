#include "kernels/codes/lanes_amx.h"
#include "kernels/codes/lanes_avx2.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::amx {
#include "kernels/codes/values.h"
}  // namespace kvant::kernels::amx
KVANT_TARGET_END

KVANT_TARGET_AMX_BEGIN
namespace kvant::kernels::amx {
namespace {

constexpr std::size_t kSide = kMatrixRows;                     // rows of weights, or dims
constexpr std::size_t kStep = codec::kPageDimBlock;            // dims at a time
using MatrixSums = std::int32_t[kStep / kSide][kSide][kSide];  // [16 dims each][row][dim]

/// Matrix registers 0 to 3 hold sums, 4 and 5 weights of rows, 6 and 7 values.
void configure(std::size_t rows) noexcept {
  MatrixShapes shapes;
  for (std::size_t i = 0; i < 6; ++i) shapes.set(i, rows, 64);
  shapes.load();
}

/// Products of the weights in registers with the values of 32 dims; `high` only where weights are not coarse.
template <bool coarse>
[[gnu::always_inline]] inline void multiply(const std::uint8_t* values, std::size_t dims, MatrixSums& low,
                                            MatrixSums& high) noexcept {
  const std::size_t stride = 4 * dims;  // from four tokens to the next
  _tile_loadd(6, values, stride);
  _tile_loadd(7, values + 4 * kSide, stride);
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (coarse) {  // weights without a sign, values with one
    _tile_dpbusd(0, 4, 6);
    _tile_dpbusd(1, 4, 7);
  } else {
    _tile_zero(2);
    _tile_zero(3);
    _tile_dpbuud(0, 4, 6);
    _tile_dpbuud(1, 4, 7);
    _tile_dpbuud(2, 5, 6);
    _tile_dpbuud(3, 5, 7);
    _tile_stored(2, high[0], 64);
    _tile_stored(3, high[1], 64);
  }
  _tile_stored(0, low[0], 64);
  _tile_stored(1, low[1], 64);
}

template <int bits>
void mix_rows(const CodeMixArgs& a, const std::uint8_t* values, std::size_t first, std::size_t count) {
  constexpr bool kRough = kCoarse<ValuePlanes<bits>>;
  const std::size_t dims = a.pages.layout.padded_dims(), stride = out_stride(a);
  for (Group group = group_at(a.pages, 0); group.count > 0; group = group_at(a.pages, group.first + group.count)) {
    RowWeights weights[kSide];
    with_scales(a, group, first, count, [&](const float* from, const F32(&scales)[kTokenVectors]) {
      constexpr bool kSums = kSummed<ValuePlanes<bits>>;
      std::size_t r = 0;
      for (; r + 4 <= count; r += 4) round_rows<kRough, kSums, 4>(from + r * kPageTokens, scales, weights + r);
      for (; r < count; ++r) round_rows<kRough, kSums, 1>(from + r * kPageTokens, scales, weights + r);
    });
    _tile_loadd(4, weights[0].whole.low.data(), sizeof(RowWeights));
    if constexpr (!kRough) _tile_loadd(5, weights[0].whole.high.data(), sizeof(RowWeights));
    for (std::size_t dim = group.first; dim < group.first + group.count; dim += kStep) {
      alignas(64) MatrixSums low, high;
      multiply<kRough>(values + 4 * dim, dims, low, high);
      for (std::size_t r = 0; r < count; ++r) {
        const F32 unit = broadcast(weights[r].unit);
        const Words start = set_words(before_sums<bits>(weights[r].sum, kValueBias<bits>));
        KVANT_UNROLL
        for (std::size_t c = 0; c < kStep / kSide; ++c) {
          Words total = add(load_words(low[c][r]), start);
          if constexpr (!kRough) total = add(total, _mm512_slli_epi32(load_words(high[c][r]), 7));
          float* to = a.out + (first + r) * stride + dim + c * kSide;
          store(to, fma(unit, after_sums<bits>(total, a.pages.table, weights[r].sum), load(to)));
        }
      }
    }
  }
}

}  // namespace

template <int bits>
void mix_codes(const CodeMixArgs& a) noexcept {
  if (a.rows <= kRowsOfVectors) return avx512::mix_codes<bits>(a);
  const std::size_t dims = a.pages.layout.padded_dims();
  alignas(64) std::uint8_t values[kPageTokens * kMaxCodedDims];
  const bool whole_vectors = dims / ValuePlanes<bits>::kParts % kCodeLanes == 0;
  whole_vectors ? avx512::decode_values<bits>(a, values) : avx2::decode_values<bits>(a, values);
  std::size_t configured = 0;
  for (std::size_t first = 0; first < a.rows; first += kSide) {
    const std::size_t count = std::min(kSide, a.rows - first);
    if (count != configured) configure(count);
    configured = count;
    mix_rows<bits>(a, values, first, count);
  }
  _tile_release();
}

template void mix_codes<1>(const CodeMixArgs&) noexcept;
template void mix_codes<2>(const CodeMixArgs&) noexcept;
template void mix_codes<3>(const CodeMixArgs&) noexcept;
template void mix_codes<4>(const CodeMixArgs&) noexcept;
template void mix_codes<5>(const CodeMixArgs&) noexcept;
template void mix_codes<6>(const CodeMixArgs&) noexcept;
template void mix_codes<7>(const CodeMixArgs&) noexcept;
template void mix_codes<8>(const CodeMixArgs&) noexcept;

}  // namespace kvant::kernels::amx
KVANT_TARGET_END
#endif
