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
constexpr std::size_t kParts = 8;                         ///< passes over the buffer: short ones, to fit between what
                                                          ///< else the machine does

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
  const std::size_t part = kReadBytes / kParts / threads / 4096 * 4096;
  AlignedBuffer<std::uint8_t> buffer(part * kParts * threads);
  pool.run(threads, [&](std::size_t i, int) {  // pages exist
    std::memset(buffer.data() + i * part * kParts, 1, part * kParts);
  });
  std::atomic<std::uint64_t> sink{0};
  std::size_t next = 0;
  return best_rate(static_cast<double>(part * threads), [&] {
    pool.run(threads,
             [&](std::size_t i, int) { sink += loops.read(buffer.data() + (i * kParts + next) * part, part); });
    next = (next + 1) % kParts;
  });
}

double operations_per_second(ThreadPool& pool, const PeakLoop& loop) {
  if (loop.run == nullptr) return 0;
  constexpr std::size_t kRounds = std::size_t{1} << 18;
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
