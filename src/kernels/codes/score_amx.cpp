#include "kernels/codes/lanes_amx.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX512_BEGIN
namespace kvant::kernels::amx {
#include "kernels/codes/keys.h"
}  // namespace kvant::kernels::amx
KVANT_TARGET_END

KVANT_TARGET_AMX_BEGIN
namespace kvant::kernels::amx {
namespace {

constexpr std::size_t kSide = kMatrixRows;                           // rows of queries, or tokens
constexpr std::size_t kBlock = codec::kPageDimBlock;                 // dims
constexpr std::size_t kBlockBytes = kBlock * kPageTokens;            // of keys
constexpr std::size_t kKeyStride = 4 * kPageTokens;                  // from four dims to the next
constexpr std::size_t kTokenStep = 4 * kSide;                        // bytes from 16 tokens to the next
using MatrixSums = std::int32_t[kPageTokens / kSide][kSide][kSide];  // [16 tokens each][row][token]

/// Matrix registers 0 to 3 hold sums of 16 tokens each, 4 queries and 5 keys of two blocks, 6 and 7 of one.
void configure(std::size_t rows) noexcept {
  MatrixShapes shapes;
  for (std::size_t i = 0; i < 5; ++i) shapes.set(i, rows, 64);
  shapes.set(6, rows, kBlock);
  shapes.set(7, kBlock / 4, 64);
  shapes.load();
}

/// Products of some rows of queries with the keys of one group.
void multiply(const std::int8_t* queries, std::size_t stride, const std::uint8_t* keys, const Group& group,
              MatrixSums& sums) noexcept {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  const std::int8_t* q = queries + group.first;
  const std::uint8_t* k = keys + group.first / kBlock * kBlockBytes;
  std::size_t left = group.count / kBlock;
  for (; left >= 2; left -= 2, q += 2 * kBlock, k += 2 * kBlockBytes) {
    _tile_loadd(4, q, stride);
    _tile_loadd(5, k, kKeyStride);
    _tile_dpbsud(0, 4, 5);
    _tile_loadd(5, k + kTokenStep, kKeyStride);
    _tile_dpbsud(1, 4, 5);
    _tile_loadd(5, k + 2 * kTokenStep, kKeyStride);
    _tile_dpbsud(2, 4, 5);
    _tile_loadd(5, k + 3 * kTokenStep, kKeyStride);
    _tile_dpbsud(3, 4, 5);
  }
  if (left != 0) {
    _tile_loadd(6, q, stride);
    _tile_loadd(7, k, kKeyStride);
    _tile_dpbsud(0, 6, 7);
    _tile_loadd(7, k + kTokenStep, kKeyStride);
    _tile_dpbsud(1, 6, 7);
    _tile_loadd(7, k + 2 * kTokenStep, kKeyStride);
    _tile_dpbsud(2, 6, 7);
    _tile_loadd(7, k + 3 * kTokenStep, kKeyStride);
    _tile_dpbsud(3, 6, 7);
  }
  _tile_stored(0, sums[0], 64);
  _tile_stored(1, sums[1], 64);
  _tile_stored(2, sums[2], 64);
  _tile_stored(3, sums[3], 64);
}

}  // namespace

template <int bits>
void score_codes(const CodeScoreArgs& a) noexcept {
  const std::size_t rows = a.rows * static_cast<std::size_t>(a.q.planes);
  if (rows <= kRowsOfVectors) return avx512::score_codes<bits>(a);
  alignas(64) std::uint8_t keys[kPageTokens * kMaxCodedDims];
  decode<bits>(a, keys, std::make_integer_sequence<int, 8>{});
  std::size_t configured = 0;
  for (std::size_t first = 0; first < rows; first += kSide) {
    const ScoreTile tile{a, first};
    const std::size_t count = std::min(kSide, rows - first);
    if (count != configured) configure(count);
    configured = count;
    for (Group group = group_at(a.pages, 0); group.count > 0; group = group_at(a.pages, group.first + group.count)) {
      alignas(64) MatrixSums products;
      multiply(a.q.values + first * tile.dims, tile.dims, keys, group, products);
      for (std::size_t r = 0; r < count; ++r) {
        Sums<1, kPageTokens / kSide> sums;
        const Words start = set_words(before_sums<bits>(a.q.sums[tile.constants(r, group)]));
        KVANT_UNROLL
        for (std::size_t t = 0; t < kPageTokens / kSide; ++t) sums[0][t] = add(load_words(products[t][r]), start);
        add_to_logits<bits>(sums, ScoreTile{a, first + r}, group, 0);
      }
    }
  }
  _tile_release();
}

template void score_codes<1>(const CodeScoreArgs&) noexcept;
template void score_codes<2>(const CodeScoreArgs&) noexcept;
template void score_codes<3>(const CodeScoreArgs&) noexcept;
template void score_codes<4>(const CodeScoreArgs&) noexcept;
template void score_codes<5>(const CodeScoreArgs&) noexcept;
template void score_codes<6>(const CodeScoreArgs&) noexcept;
template void score_codes<7>(const CodeScoreArgs&) noexcept;
template void score_codes<8>(const CodeScoreArgs&) noexcept;

}  // namespace kvant::kernels::amx
KVANT_TARGET_END
#endif
