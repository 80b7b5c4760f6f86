#include "bench/roofline.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/aligned_buffer.h"
#include "base/clock.h"
#include "bench/peak_loops.h"

namespace kvant::bench {
namespace {

constexpr double kSeconds = 0.5;                          ///< of each measurement
constexpr std::size_t kReadBytes = std::size_t{1} << 29;  ///< 16 times a 32 MiB cache

/// The best rate per second of `amount` of work that pass() does, over repetitions of about kSeconds in all.
template <class Pass>
double best_rate(double amount, Pass&& pass) {
  double best = 0;
  const Stopwatch total;
  do {
    const Stopwatch watch;
    pass();
    best = std::max(best, amount / watch.seconds());
  } while (total.seconds() < kSeconds);
  return best;
}

double read_bytes_per_second(ThreadPool& pool, const PeakLoops& loops) {
  const auto threads = static_cast<std::size_t>(pool.threads());
  const std::size_t share = kReadBytes / threads / 4096 * 4096;
  AlignedBuffer<std::uint8_t> buffer(share * threads);
  // Written by the thread count that reads it: pages exist and lie near their reader.
  pool.run(threads, [&](std::size_t i, int) { std::memset(buffer.data() + i * share, 1, share); });
  std::atomic<std::uint64_t> sink{0};
  return best_rate(static_cast<double>(share * threads), [&] {
    pool.run(threads, [&](std::size_t i, int) { sink += loops.read(buffer.data() + i * share, share); });
  });
}

double operations_per_second(ThreadPool& pool, const PeakLoop& loop) {
  if (loop.run == nullptr) return 0;
  constexpr std::size_t kRounds = std::size_t{1} << 21;
  const auto threads = static_cast<std::size_t>(pool.threads());
  std::atomic<std::uint64_t> sink{0};
  return best_rate(loop.operations_per_round * static_cast<double>(kRounds * threads),
                   [&] { pool.run(threads, [&](std::size_t, int) { sink += loop.run(kRounds); }); });
}

}  // namespace

Roofline measure_roofline(ThreadPool& pool, Isa isa) {
  const PeakLoops loops = peak_loops(isa);
  Roofline roofline;
  roofline.read_gb_s = read_bytes_per_second(pool, loops) * 1e-9;
  roofline.f32_gflops = operations_per_second(pool, loops.f32) * 1e-9;
  roofline.bf16_gflops = operations_per_second(pool, loops.bf16) * 1e-9;
  roofline.int8_gops = operations_per_second(pool, loops.int8) * 1e-9;
  return roofline;
}

}  // namespace kvant::bench
