#include <algorithm>
#include <type_traits>

#include "kernels/matmul/formats_avx2.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
#include "kernels/matmul/transpose_avx2.h"
KVANT_TARGET_END

KVANT_TARGET_AVXVNNI_BEGIN
namespace kvant::kernels::avxvnni {
using namespace avx2;  // NOLINT(google-build-using-namespace): formats
namespace {
#include "kernels/matmul/gemm_256.h"

/// Any unsigned codes: exact sums of four products.
struct Dots {
  using Code = std::uint8_t;
  template <std::size_t kRows>
  using Rows = ByteRows;
  template <std::size_t kRows>
  [[gnu::always_inline]] static void add(const Code (*codes)[kUnit * 4], const ByteRows& rows, std::size_t at,
                                         Products<kRows>& sums) noexcept {
    KVANT_UNROLL
    for (std::size_t s = 0; s < 4; ++s) {
      const __m256i w[kVectors] = {load_codes(codes[s]), load_codes(codes[s] + 32)};
      KVANT_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m256i q = lane_to_all(rows.at(r, at + 4 * s));
        KVANT_UNROLL
        for (std::size_t v = 0; v < kVectors; ++v) {
          sums[r][v] = _mm256_dpbusd_avx_epi32(sums[r][v], w[v], q);
          settle(sums[r][v]);
        }
      }
    }
  }
  static __m256i whole(__m256i sums) noexcept { return sums; }
};

Codes without_signs(Codes c) noexcept {
  const __m256i sign = _mm256_set1_epi8(static_cast<char>(0x80));
  for (std::size_t j = 0; j < 2; ++j) {
    c.low[j] = _mm256_xor_si256(c.low[j], sign);
    c.high[j] = _mm256_xor_si256(c.high[j], sign);
  }
  return c;
}

/// Signed codes plus 128, which is an offset.
template <class Format>
struct OffsetBlocks {
  using Block = typename Format::Block;
  static constexpr bool kHasMin = false;
  static constexpr int kOffset = 128;
  Codes codes;
  __m256 d[2];
  static OffsetBlocks load(const std::byte* p) noexcept {
    const Format w = Format::load(p);
    return {without_signs(w.codes), {w.d[0], w.d[1]}};
  }
};
template <class Format>
struct OffsetSuper {
  using Block = typename Format::Block;
  static constexpr bool kHasMin = true;
  static constexpr int kOffset = 128, kScales = 8;
  Format signed_codes;
  __m256 scale, min;
  static OffsetSuper load(const std::byte* p) noexcept {
    const Format w = Format::load(p);
    return {w, w.scale, _mm256_mul_ps(w.scale, _mm256_set1_ps(kOffset))};
  }
  Codes codes(int half) const noexcept { return without_signs(signed_codes.codes(half)); }
};

}  // namespace

void gemm_q4_0(const GemmArgs& a) noexcept { gemm<Blocks<Q4_0, Dots>>(a); }
void gemm_q4_1(const GemmArgs& a) noexcept { gemm<Blocks<Q4_1, Dots>>(a); }
void gemm_q5_0(const GemmArgs& a) noexcept { gemm<Blocks<Q5_0, Dots>>(a); }
void gemm_q5_1(const GemmArgs& a) noexcept { gemm<Blocks<Q5_1, Dots>>(a); }
void gemm_q8_0(const GemmArgs& a) noexcept { gemm<Blocks<OffsetBlocks<Q8_0>, Dots>>(a); }
void gemm_iq4_nl(const GemmArgs& a) noexcept { gemm<Blocks<OffsetBlocks<IQ4_NL>, Dots>>(a); }
void gemm_q2_k(const GemmArgs& a) noexcept { gemm<Super<Q2_K, Dots>>(a); }
void gemm_q3_k(const GemmArgs& a) noexcept { gemm<Super<Q3_K, Dots>>(a); }
void gemm_q4_k(const GemmArgs& a) noexcept { gemm<Super<Q4_K, Dots>>(a); }
void gemm_q5_k(const GemmArgs& a) noexcept { gemm<Super<Q5_K, Dots>>(a); }
void gemm_q6_k(const GemmArgs& a) noexcept { gemm<Super<Q6_K, Dots>>(a); }
void gemm_iq4_xs(const GemmArgs& a) noexcept { gemm<Super<OffsetSuper<IQ4_XS>, Dots>>(a); }

}  // namespace kvant::kernels::avxvnni
KVANT_TARGET_END
#endif
