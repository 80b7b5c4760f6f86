// Included within AVX2 regions, after all includes.
namespace kvant::kernels::avx2 {
namespace {

/// Transposes 8 registers of 8 dwords: out[j] holds dword j of every in[i].
inline void transpose(__m256 (&r)[8]) noexcept {
  __m256 t[8];
  KVANT_UNROLL
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  KVANT_UNROLL
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  KVANT_UNROLL
  for (int j = 0; j < 4; ++j) {  // halves of r[4 i + j] hold dwords j and j + 4 of rows 4 i to 4 i + 3
    t[j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x20);
    t[4 + j] = _mm256_permute2f128_ps(r[j], r[4 + j], 0x31);
  }
  KVANT_UNROLL
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

}  // namespace
}  // namespace kvant::kernels::avx2
