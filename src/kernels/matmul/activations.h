#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/registry.h"

/// Activations as int8: the right-hand side of the decode kernels.
namespace kvant::kernels {

/// 256 activations in 8 groups of 32: x[i] ~ scale[i / 32] * q, scale = max |x| / 127 of the group.
///
/// The codes of each half (four groups) are split so that the nibbles of four 16-byte weight blocks meet them in one
/// 64-byte register: first the values 0-15 of the four groups, then their values 16-31. A lane is 4 bytes of such a
/// register; lanes 4g to 4g + 3 belong to group g of the half.
struct alignas(64) ActivationBlock {
  static constexpr std::size_t kValues = 256;
  static constexpr std::size_t kGroup = 32;

  std::int8_t q[2][128];
  std::int32_t negative_sum[2][16];  ///< minus the sum of the lane's 8 codes: 4 of each part
  float lane_scale[2][16];           ///< scale of the lane's group
  float scale[8];
  float minus_sum[8];                  ///< -scale * sum of the group's codes
  float half_sum[16];                  ///< the same over 16 consecutive values
  std::int32_t negative_group_sum[8];  ///< minus the sum of the group's codes
};

/// Where value i of a block lies in q.
constexpr std::size_t code_half(std::size_t i) { return i / 128; }
constexpr std::size_t code_position(std::size_t i) { return i / 16 % 2 * 64 + i / 32 % 4 * 16 + i % 16; }

/// Blocks that hold a row of `cols` activations.
constexpr std::size_t activation_blocks(std::size_t cols) {
  return (cols + ActivationBlock::kValues - 1) / ActivationBlock::kValues;
}

/// Quantizes a row: block i, of activation_blocks(cols), goes to blocks[i * stride]. Values past the end count as zero.
/// Codes are rounded to nearest even; all tiers give the same bits. A group with a NaN or an infinity has a scale that
/// is not finite. noexcept.
using QuantizeActivations = void (*)(const float* x, std::size_t cols, ActivationBlock* blocks,
                                     std::size_t stride) noexcept;

std::span<const Implementation<QuantizeActivations>> quantize_activations_kernels() noexcept;

}  // namespace kvant::kernels
