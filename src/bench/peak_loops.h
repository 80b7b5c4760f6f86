#pragma once
#include <cstddef>
#include <cstdint>

#include "base/cpu.h"

namespace kvant::bench {

/// A loop that keeps one kind of arithmetic unit busy with independent chains in registers.
struct PeakLoop {
  /// Runs `rounds` rounds; the returned value depends on all of them, so that none can be left out.
  std::uint64_t (*run)(std::size_t rounds) noexcept = nullptr;  ///< nullptr: the tier has no such instruction
  double operations_per_round = 0;                              ///< multiplications and additions counted apart
};

/// The loops of an instruction set, for one thread.
struct PeakLoops {
  /// Reads n (a multiple of 512) bytes from the start to the end.
  std::uint64_t (*read)(const std::uint8_t* bytes, std::size_t n) noexcept = nullptr;
  PeakLoop f32, bf16, int8;
};
PeakLoops peak_loops(Isa isa);

}  // namespace kvant::bench
