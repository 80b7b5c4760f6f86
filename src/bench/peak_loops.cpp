#include "bench/peak_loops.h"

#include <bit>
#include <cstring>

#include "kernels/simd/amx.h"
#include "kernels/simd/target.h"

namespace kvant::bench {
namespace {

/// Independent chains, more than latency times throughput of any unit here. They start from different values, lest the
/// compiler see that all are one.
constexpr std::size_t kChains = 12;

/// The bits of a register of `size` bytes folded to one word.
std::uint64_t fold(const void* vector, std::size_t size) noexcept {
  std::uint64_t sum = 0;
  for (std::size_t at = 0; at < size; at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, static_cast<const char*>(vector) + at, 8);
    sum ^= word;
  }
  return sum;
}

// What the compiler makes of plain C++ on the baseline.
namespace scalar {

constexpr std::size_t kLanes = 4 * kChains;

std::uint64_t read(const std::uint8_t* bytes, std::size_t n) noexcept {
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i < n; i += 64) {
    std::uint64_t words[8];
    std::memcpy(words, bytes + i, 64);
    for (int c = 0; c < 8; ++c) sums[c] += words[c];
  }
  return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

std::uint64_t f32(std::size_t rounds) noexcept {
  float x[kLanes];
  for (std::size_t c = 0; c < kLanes; ++c) x[c] = static_cast<float>(c);
  for (std::size_t r = 0; r < rounds; ++r) {
    for (std::size_t c = 0; c < kLanes; ++c) x[c] = x[c] * 0.999f + 0.5f;
  }
  float sum = 0;
  for (const float v : x) sum += v;
  return std::bit_cast<std::uint32_t>(sum);
}

}  // namespace scalar
}  // namespace
}  // namespace kvant::bench

#ifdef KVANT_X86
KVANT_TARGET_AVX2_BEGIN
namespace kvant::bench::avx2 {

static std::uint64_t read(const std::uint8_t* bytes, std::size_t n) noexcept {
  __m256i sums[8] = {};
  for (std::size_t i = 0; i < n; i += 256) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < 8; ++c) {
      sums[c] = _mm256_add_epi64(sums[c], _mm256_load_si256(reinterpret_cast<const __m256i*>(bytes + i + 32 * c)));
    }
  }
  for (std::size_t c = 1; c < 8; ++c) sums[0] = _mm256_add_epi64(sums[0], sums[c]);
  return fold(sums, sizeof sums[0]);
}

static std::uint64_t f32(std::size_t rounds) noexcept {
  __m256 x[kChains];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm256_set1_ps(static_cast<float>(c));
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.5f);
  for (std::size_t r = 0; r < rounds; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm256_fmadd_ps(x[c], a, b);
  }
  for (std::size_t c = 1; c < kChains; ++c) x[0] = _mm256_add_ps(x[0], x[c]);
  return fold(x, sizeof x[0]);
}

static std::uint64_t int8(std::size_t rounds) noexcept {
  __m256i x[kChains];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm256_set1_epi32(static_cast<int>(c));
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i u = _mm256_set1_epi8(3);
  for (std::size_t r = 0; r < rounds; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kChains; ++c) {
      // The accumulator is an operand, so that no product can be taken out of the loop.
      const __m256i pairs = _mm256_maddubs_epi16(u, x[c]);
      x[c] = _mm256_add_epi32(x[c], _mm256_madd_epi16(pairs, ones));
    }
  }
  for (std::size_t c = 1; c < kChains; ++c) x[0] = _mm256_add_epi32(x[0], x[c]);
  return fold(x, sizeof x[0]);
}

}  // namespace kvant::bench::avx2
KVANT_TARGET_END

KVANT_TARGET_AVXVNNI_BEGIN
namespace kvant::bench::avxvnni {

static std::uint64_t int8(std::size_t rounds) noexcept {
  __m256i x[kChains];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm256_set1_epi32(static_cast<int>(c));
  const __m256i u = _mm256_set1_epi8(3), s = _mm256_set1_epi8(5);
  for (std::size_t r = 0; r < rounds; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm256_dpbusd_avx_epi32(x[c], u, s);
  }
  for (std::size_t c = 1; c < kChains; ++c) x[0] = _mm256_add_epi32(x[0], x[c]);
  return fold(x, sizeof x[0]);
}

}  // namespace kvant::bench::avxvnni
KVANT_TARGET_END

KVANT_TARGET_AVX512_BEGIN
namespace kvant::bench::avx512 {

static std::uint64_t read(const std::uint8_t* bytes, std::size_t n) noexcept {
  __m512i sums[8] = {};
  for (std::size_t i = 0; i < n; i += 512) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < 8; ++c) {
      sums[c] = _mm512_add_epi64(sums[c], _mm512_load_si512(bytes + i + 64 * c));
    }
  }
  for (std::size_t c = 1; c < 8; ++c) sums[0] = _mm512_add_epi64(sums[0], sums[c]);
  return fold(sums, sizeof sums[0]);
}

static std::uint64_t f32(std::size_t rounds) noexcept {
  __m512 x[kChains];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm512_set1_ps(static_cast<float>(c));
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.5f);
  for (std::size_t r = 0; r < rounds; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm512_fmadd_ps(x[c], a, b);
  }
  for (std::size_t c = 1; c < kChains; ++c) x[0] = _mm512_add_ps(x[0], x[c]);
  return fold(x, sizeof x[0]);
}

static std::uint64_t int8(std::size_t rounds) noexcept {
  __m512i x[kChains];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm512_set1_epi32(static_cast<int>(c));
  const __m512i u = _mm512_set1_epi8(3), s = _mm512_set1_epi8(5);
  for (std::size_t r = 0; r < rounds; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm512_dpbusd_epi32(x[c], u, s);
  }
  for (std::size_t c = 1; c < kChains; ++c) x[0] = _mm512_add_epi32(x[0], x[c]);
  return fold(x, sizeof x[0]);
}

}  // namespace kvant::bench::avx512
KVANT_TARGET_END

KVANT_TARGET_AVX512BF16_BEGIN
namespace kvant::bench::avx512 {

static std::uint64_t bf16(std::size_t rounds) noexcept {
  __m512 x[kChains];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm512_set1_ps(static_cast<float>(c));
  const __m512bh a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(0.5f)), b = a;
  for (std::size_t r = 0; r < rounds; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kChains; ++c) x[c] = _mm512_dpbf16_ps(x[c], a, b);
  }
  for (std::size_t c = 1; c < kChains; ++c) x[0] = _mm512_add_ps(x[0], x[c]);
  return fold(x, sizeof x[0]);
}

}  // namespace kvant::bench::avx512
KVANT_TARGET_END

KVANT_TARGET_AMX_BEGIN
namespace kvant::bench::amx {

static constexpr std::size_t kRegisters = 4;  // of sums

/// 16 by 16 sums of 32 products in each register.
static std::uint64_t bf16(std::size_t rounds) noexcept {
  alignas(64) float zeros[16][16] = {};
  kernels::amx::MatrixShapes().load();
  _tile_loadd(4, zeros, 64);
  _tile_loadd(5, zeros, 64);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::size_t r = 0; r < rounds; ++r) {
    _tile_dpbf16ps(0, 4, 5);
    _tile_dpbf16ps(1, 4, 5);
    _tile_dpbf16ps(2, 4, 5);
    _tile_dpbf16ps(3, 4, 5);
  }
  _tile_stored(0, zeros, 64);
  _tile_release();
  return fold(zeros, sizeof zeros[0]);
}

}  // namespace kvant::bench::amx
KVANT_TARGET_END
#endif

#ifdef KVANT_ARM64
KVANT_TARGET_NEON_BEGIN
namespace kvant::bench::neon {

static std::uint64_t read(const std::uint8_t* bytes, std::size_t n) noexcept {
  uint64x2_t sums[8] = {};
  for (std::size_t i = 0; i < n; i += 128) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < 8; ++c) {
      sums[c] = vaddq_u64(sums[c], vreinterpretq_u64_u8(vld1q_u8(bytes + i + 16 * c)));
    }
  }
  for (std::size_t c = 1; c < 8; ++c) sums[0] = vaddq_u64(sums[0], sums[c]);
  return fold(sums, sizeof sums[0]);
}

static std::uint64_t f32(std::size_t rounds) noexcept {
  float32x4_t x[kChains];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kChains; ++c) x[c] = vdupq_n_f32(static_cast<float>(c));
  const float32x4_t a = vdupq_n_f32(0.999f), b = vdupq_n_f32(0.5f);
  for (std::size_t r = 0; r < rounds; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kChains; ++c) x[c] = vfmaq_f32(b, x[c], a);
  }
  for (std::size_t c = 1; c < kChains; ++c) x[0] = vaddq_f32(x[0], x[c]);
  return fold(x, sizeof x[0]);
}

static std::uint64_t int8(std::size_t rounds) noexcept {
  int32x4_t x[kChains];
  KVANT_UNROLL
  for (std::size_t c = 0; c < kChains; ++c) x[c] = vdupq_n_s32(static_cast<int>(c));
  const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
  for (std::size_t r = 0; r < rounds; ++r) {
    KVANT_UNROLL
    for (std::size_t c = 0; c < kChains; ++c) x[c] = vdotq_s32(x[c], a, b);
  }
  for (std::size_t c = 1; c < kChains; ++c) x[0] = vaddq_s32(x[0], x[c]);
  return fold(x, sizeof x[0]);
}

}  // namespace kvant::bench::neon
KVANT_TARGET_END
#endif

namespace kvant::bench {

PeakLoops peak_loops(Isa isa) {
  PeakLoops loops{scalar::read, {scalar::f32, 2.0 * scalar::kLanes}, {}, {}};
#ifdef KVANT_X86
  if (isa == Isa::avx2 || isa == Isa::avxvnni) {
    loops = {avx2::read, {avx2::f32, 2.0 * 8 * kChains}, {}, {avx2::int8, 2.0 * 32 * kChains}};
    if (isa == Isa::avxvnni) loops.int8.run = avxvnni::int8;
  } else if (isa == Isa::avx512 || isa == Isa::amx) {
    loops = {avx512::read, {avx512::f32, 2.0 * 16 * kChains}, {}, {avx512::int8, 2.0 * 64 * kChains}};
    if (has_avx512_bf16()) loops.bf16 = {avx512::bf16, 2.0 * 32 * kChains};
    if (isa == Isa::amx) loops.bf16 = {amx::bf16, 2.0 * 16 * 16 * 32 * amx::kRegisters};
  }
#endif
#ifdef KVANT_ARM64
  if (isa == Isa::neon) {
    loops = {neon::read, {neon::f32, 2.0 * 4 * kChains}, {}, {neon::int8, 2.0 * 16 * kChains}};
  }
#endif
  return loops;
}

}  // namespace kvant::bench
