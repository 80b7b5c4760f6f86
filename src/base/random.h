#pragma once
#include <cstdint>

namespace kvant {

/// xoshiro256** seeded by splitmix64 (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021):
/// the same sequence on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept;
  std::uint64_t next() noexcept;
  /// Uniform in [0, 1), 53 bits.
  double uniform() noexcept { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// Uniform integer in [0, n), n > 0, without bias.
  std::uint64_t below(std::uint64_t n) noexcept;
  /// Standard normal (polar Box-Muller).
  double normal() noexcept;

 private:
  std::uint64_t state_[4];
  double spare_ = 0;
  bool has_spare_ = false;
};

}  // namespace kvant
