#include <algorithm>
#include <type_traits>

#include "kernels/matmul/formats_avx2.h"
#include "kernels/matmul/kernels.h"

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
#include "kernels/matmul/transpose_avx2.h"

namespace kvant::kernels::avx2 {
namespace {
#include "kernels/matmul/gemm_256.h"

/// Adds pairs of 16-bit sums.
__m256i add_pairs(__m256i a) noexcept { return _mm256_madd_epi16(a, _mm256_set1_epi16(1)); }

/// Unsigned codes of up to 4 bits: 8 sums of two products fit 16 bits (8 * 2 * 15 * 127 < 2^15).
struct Nibbles {
  using Code = std::uint8_t;
  template <std::size_t kRows>
  using Rows = ByteRows;
  template <std::size_t kRows>
  [[gnu::always_inline]] static void add(const Code (*codes)[kUnit * 4], const ByteRows& x, std::size_t at,
                                         Products<kRows>& sums) noexcept {
    KVANT_UNROLL
    for (std::size_t s = 0; s < 4; ++s) {
      const __m256i w[kVectors] = {load_codes(codes[s]), load_codes(codes[s] + 32)};
      KVANT_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m256i q = lane_to_all(x.at(r, at + 4 * s));
        KVANT_UNROLL
        for (std::size_t v = 0; v < kVectors; ++v) {
          sums[r][v] = _mm256_add_epi16(sums[r][v], _mm256_maddubs_epi16(w[v], q));
          settle(sums[r][v]);
        }
      }
    }
  }
  static __m256i whole(__m256i sums) noexcept { return add_pairs(sums); }
};

/// Unsigned codes of up to 6 bits: 2 sums of two products fit (2 * 2 * 63 * 127 < 2^15).
struct SixBits {
  using Code = std::uint8_t;
  template <std::size_t kRows>
  using Rows = ByteRows;
  template <std::size_t kRows>
  [[gnu::always_inline]] static void add(const Code (*codes)[kUnit * 4], const ByteRows& x, std::size_t at,
                                         Products<kRows>& sums) noexcept {
    KVANT_UNROLL
    for (std::size_t s = 0; s < 4; s += 2) {
      KVANT_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m256i q0 = lane_to_all(x.at(r, at + 4 * s)), q1 = lane_to_all(x.at(r, at + 4 * s + 4));
        KVANT_UNROLL
        for (std::size_t v = 0; v < kVectors; ++v) {
          const __m256i two = _mm256_add_epi16(_mm256_maddubs_epi16(load_codes(codes[s] + 32 * v), q0),
                                               _mm256_maddubs_epi16(load_codes(codes[s + 1] + 32 * v), q1));
          sums[r][v] = _mm256_add_epi32(sums[r][v], add_pairs(two));
          settle(sums[r][v]);
        }
      }
    }
  }
  static __m256i whole(__m256i sums) noexcept { return sums; }
};

/// Signed codes: 16-bit factors.
struct Bytes {
  using Code = std::int16_t;
  template <std::size_t kRows>
  struct Rows {
    alignas(32) std::int16_t even[kRows][128], odd[kRows][128];
    explicit Rows(const ActivationBlock* blocks) noexcept {
      for (std::size_t r = 0; r < kRows; ++r) {
        for (std::size_t i = 0; i < 256; i += 32) {
          const __m256i q = load_codes(blocks[r].q[0] + i);
          _mm256_store_si256(reinterpret_cast<__m256i*>(even[r] + i / 2), even_bytes(q));
          _mm256_store_si256(reinterpret_cast<__m256i*>(odd[r] + i / 2), odd_bytes(q));
        }
      }
    }
  };
  template <std::size_t kRows>
  [[gnu::always_inline]] static void add(const Code (*codes)[kUnit * 4], const Rows<kRows>& x, std::size_t at,
                                         Products<kRows>& sums) noexcept {
    KVANT_UNROLL
    for (std::size_t s = 0; s < 4; ++s) {
      const std::size_t i = at / 2 + 2 * s;
      __m256i w[kVectors][2];
      KVANT_UNROLL
      for (std::size_t v = 0; v < kVectors; ++v) {
        w[v][0] = load_codes(codes[s] + 32 * v);
        w[v][1] = load_codes(codes[s] + 32 * v + 16);
      }
      KVANT_UNROLL
      for (std::size_t r = 0; r < kRows; ++r) {
        const __m256i even = lane_to_all(x.even[r] + i), odd = lane_to_all(x.odd[r] + i);
        KVANT_UNROLL
        for (std::size_t v = 0; v < kVectors; ++v) {
          const __m256i two = _mm256_add_epi32(_mm256_madd_epi16(w[v][0], even), _mm256_madd_epi16(w[v][1], odd));
          sums[r][v] = _mm256_add_epi32(sums[r][v], two);
          settle(sums[r][v]);
        }
      }
    }
  }
  static __m256i whole(__m256i sums) noexcept { return sums; }
};

}  // namespace

void gemm_q4_0(const GemmArgs& a) noexcept { gemm<Blocks<Q4_0, Nibbles>>(a); }
void gemm_q4_1(const GemmArgs& a) noexcept { gemm<Blocks<Q4_1, Nibbles>>(a); }
void gemm_q5_0(const GemmArgs& a) noexcept { gemm<Blocks<Q5_0, SixBits>>(a); }
void gemm_q5_1(const GemmArgs& a) noexcept { gemm<Blocks<Q5_1, SixBits>>(a); }
void gemm_q8_0(const GemmArgs& a) noexcept { gemm<Blocks<Q8_0, Bytes>>(a); }
void gemm_iq4_nl(const GemmArgs& a) noexcept { gemm<Blocks<IQ4_NL, Bytes>>(a); }
void gemm_q2_k(const GemmArgs& a) noexcept { gemm<Super<Q2_K, Nibbles>>(a); }
void gemm_q3_k(const GemmArgs& a) noexcept { gemm<Super<Q3_K, Nibbles>>(a); }
void gemm_q4_k(const GemmArgs& a) noexcept { gemm<Super<Q4_K, Nibbles>>(a); }
void gemm_q5_k(const GemmArgs& a) noexcept { gemm<Super<Q5_K, SixBits>>(a); }
void gemm_q6_k(const GemmArgs& a) noexcept { gemm<Super<Q6_K, SixBits>>(a); }
void gemm_iq4_xs(const GemmArgs& a) noexcept { gemm<Super<IQ4_XS, Bytes>>(a); }

}  // namespace kvant::kernels::avx2
KVANT_TARGET_END
#endif
