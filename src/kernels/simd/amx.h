#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/simd/target.h"

#ifdef KVANT_X86
KVANT_TARGET_AMX_BEGIN
namespace kvant::kernels::amx {

/// Rows of a matrix register at most; bytes of each row at most.
inline constexpr std::size_t kMatrixRows = 16, kMatrixRowBytes = 64;

/// Shapes of the eight matrix registers (Intel's Software Developer's Manual, LDTILECFG, palette 1); whole ones at
/// first.
class alignas(64) MatrixShapes {
 public:
  void set(std::size_t matrix, std::size_t rows, std::size_t row_bytes) noexcept {
    rows_[matrix] = static_cast<std::uint8_t>(rows);
    row_bytes_[matrix] = static_cast<std::uint16_t>(row_bytes);
  }
  /// Makes the registers of this thread such; they hold zeros then. _tile_release() ends their use.
  void load() const noexcept {
    asm volatile("" : : "r"(this) : "memory");  // g++ 12 takes the instruction to read 8 bytes only
    _tile_loadconfig(this);
  }

 private:
  [[maybe_unused]] std::uint8_t palette_ = 1, start_row_ = 0;
  [[maybe_unused]] std::uint8_t reserved_[14] = {};
  std::uint16_t row_bytes_[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows_[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(MatrixShapes) == 64);

}  // namespace kvant::kernels::amx
KVANT_TARGET_END
#endif
