#pragma once
/// Instruction-set regions. The build uses the baseline for every file; code for a tier stands between BEGIN and END,
/// after all includes, in the tier's namespace:
///
///     KVANT_TARGET_AVX512_BEGIN
///     namespace kvant::kernels::avx512 { ... }
///     KVANT_TARGET_END
///
/// Inside a region the compiler does not define __AVX512F__ and the like, so code must not test for them, and no vector
/// type may appear in a signature outside it. g++ 12 warns about uninitialised values inside its own AVX-512 headers;
/// that warning is off within the regions.

#define KVANT_PRAGMA(x) _Pragma(#x)
#if defined(__x86_64__)
#define KVANT_X86 1
#include <immintrin.h>
#if defined(__clang__)
#define KVANT_TARGET_BEGIN(features) \
  KVANT_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define KVANT_TARGET_END _Pragma("clang attribute pop")
#else
#define KVANT_TARGET_BEGIN(features)                                                            \
  _Pragma("GCC push_options") KVANT_PRAGMA(GCC target(features)) _Pragma("GCC diagnostic push") \
      _Pragma("GCC diagnostic ignored \"-Wuninitialized\"")                                     \
          _Pragma("GCC diagnostic ignored \"-Wmaybe-uninitialized\"")
#define KVANT_TARGET_END _Pragma("GCC diagnostic pop") _Pragma("GCC pop_options")
#endif
#define KVANT_TARGET_AVX2_BEGIN KVANT_TARGET_BEGIN("avx2,fma,f16c")
#define KVANT_TARGET_AVXVNNI_BEGIN KVANT_TARGET_BEGIN("avx2,fma,f16c,avxvnni")
#define KVANT_TARGET_AVX512_BEGIN \
  KVANT_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni")
#define KVANT_TARGET_AVX512BF16_BEGIN \
  KVANT_TARGET_BEGIN("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16")
#define KVANT_TARGET_AMX_BEGIN \
  KVANT_TARGET_BEGIN(          \
      "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx512bf16,amx-tile,amx-int8,amx-bf16")
#elif defined(__aarch64__)
#define KVANT_ARM64 1
#include <arm_neon.h>
#if defined(__clang__)
#define KVANT_TARGET_NEON_BEGIN \
  KVANT_PRAGMA(clang attribute push(__attribute__((target("dotprod,fullfp16"))), apply_to = function))
#define KVANT_TARGET_END _Pragma("clang attribute pop")
#else
#define KVANT_TARGET_NEON_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"arch=armv8.2-a+dotprod+fp16\")")
#define KVANT_TARGET_END _Pragma("GCC pop_options")
#endif
#endif

/// Unrolls the following loop of constant length completely, so that an array of vectors lives in registers.
#if defined(__clang__)
#define KVANT_UNROLL _Pragma("unroll")
#else
#define KVANT_UNROLL _Pragma("GCC unroll 16")
#endif
