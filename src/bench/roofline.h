#pragma once
#include "base/cpu.h"
#include "base/thread_pool.h"

namespace kvant::bench {

/// What this machine reaches at best with this many threads, measured now (about half a second each).
struct Roofline {
  double read_gb_s = 0;    ///< one sequential stream per thread over a buffer far larger than the caches
  double f32_gflops = 0;   ///< fused multiply-adds in registers
  double bf16_gflops = 0;  ///< bf16 dot products; 0 where the processor has none
  double int8_gops = 0;    ///< int8 dot products; 0 where the tier has none
};
Roofline measure_roofline(ThreadPool& pool, Isa isa);

}  // namespace kvant::bench
