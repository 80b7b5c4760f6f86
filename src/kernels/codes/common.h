#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "kernels/codes/codes.h"

/// What the tiers of kernels/codes share.
namespace kvant::kernels {

/// Padded dims of a page at most.
inline constexpr std::size_t kMaxCodedDims = 512;
/// Peaks below this count as zero: their reciprocals could overflow, and nothing of any weight is that small.
inline constexpr float kNegligible = 0x1p-100F;
/// The largest whole number that stands for weight * scale where weights are not coarse.
inline constexpr std::int32_t kFineWeight = 127 * 128 + 127;

/// Rows of a query plane, read where they are.
struct ByteQueries {
  const std::int8_t* values;
  std::size_t dims;
  [[gnu::always_inline]] const std::int8_t* four(std::size_t row, std::size_t dim) const {
    return values + row * dims + dim;
  }
};

/// What logits are added to where none are there yet.
alignas(64) inline constexpr std::array<float, kPageTokens> kNoLogits{};

/// What is added to each token's coarse weight before it is rounded, from -63/128 to 63/128: token t has the bits of t
/// in reverse order, so that among any few neighbours as many are rounded up as the sum of their weights asks for (van
/// der Corput's sequence). Small weights would otherwise all become zero.
inline constexpr std::array<float, kPageTokens> kDither = [] {
  std::array<float, kPageTokens> dither{};
  for (unsigned t = 0; t < kPageTokens; ++t) {
    unsigned reversed = 0;
    for (unsigned bit = 0; bit < 6; ++bit) reversed |= (t >> bit & 1U) << (5 - bit);
    dither[t] = (static_cast<float>(reversed) - 31.5F) / 64;
  }
  return dither;
}();

/// The whole number nearest to x, ties to even; |x| < 2^22.
inline std::int32_t nearest_whole(float x) noexcept {
  constexpr float kRounder = 0x1.8p23F;  // the low bits of the sum hold the whole number
  return std::bit_cast<std::int32_t>(x + kRounder) - std::bit_cast<std::int32_t>(kRounder);
}

/// Where in a byte the fields of a code's lower and upper plane begin. Codes of 1, 2 and 4 bits have one plane only.
struct Places {
  int low, high;
};
inline constexpr int low_width(int bits) noexcept { return bits >= 4 ? 4 : bits >= 2 ? 2 : 1; }

/// CodeTable::offset of codes of up to 6 bits.
inline constexpr std::int32_t kTableOffset = 128;

/// The codes (up to 6 bits) of bytes with fields at these places, whatever else is in the bytes.
template <int bits, Places at>
inline constexpr std::array<std::uint8_t, 64> kCodesAt = [] {
  constexpr int kLow = low_width(bits);
  std::array<std::uint8_t, 64> codes{};
  for (int i = 0; i < 64; ++i) {
    const int low = (i >> at.low) & ((1 << kLow) - 1), high = (i >> at.high) & ((1 << (bits - kLow)) - 1);
    codes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(low | high << kLow);
  }
  return codes;
}();

/// Places within the low 4 bits, which are what tables of 16 bytes are asked with, for codes of up to 4 bits. Few
/// moves bring fields there: most begin there, or share their move with a neighbour.
template <int bits>
constexpr Places places_in_nibbles(Places from) noexcept {
  const int low = from.low % 4;
  return {low, bits == 3 ? 2 - low + from.high % 2 : 0};
}

/// Consecutive dims [first, first + count) that share their scales; whole blocks.
struct Group {
  std::size_t index, first, count;
};

/// The group that starts at a dim; its count is 0 where the dims end. To visit all groups:
/// `for (Group g = group_at(pages, 0); g.count > 0; g = group_at(pages, g.first + g.count))`.
inline Group group_at(const CodedPages& pages, std::size_t dim) noexcept {
  const std::uint16_t* groups = pages.block_groups.data();
  const std::size_t blocks = pages.block_groups.size(), first = dim / codec::kPageDimBlock;
  if (first >= blocks) return {0, dim, 0};
  std::size_t last = first + 1;
  while (last < blocks && groups[last] == groups[first]) ++last;
  return {groups[first], dim, (last - first) * codec::kPageDimBlock};
}

inline std::size_t out_stride(const CodeMixArgs& a) noexcept {
  return a.stride != 0 ? a.stride : a.pages.layout.padded_dims();
}

/// Starts to load what a kernel will read next, a part in each of its steps: that to the L1 cache, what comes after it
/// to the L2 cache, as one page's time is short for memory.
class Prefetcher {
 public:
  Prefetcher(const Upcoming& next, std::size_t steps) noexcept
      : at_(next.data), beyond_(next.beyond), left_(next.bytes / kLine), per_step_((left_ + steps - 1) / steps) {}

  [[gnu::always_inline]] void step() noexcept {
    const std::size_t lines = std::min(left_, per_step_);
    for (std::size_t i = 0; i < lines; ++i) __builtin_prefetch(at_ + i * kLine, 0, 3);
    if (beyond_ != nullptr) {
      for (std::size_t i = 0; i < lines; ++i) __builtin_prefetch(beyond_ + i * kLine, 0, 2);
      beyond_ += lines * kLine;
    }
    at_ += lines * kLine;
    left_ -= lines;
  }

 private:
  static constexpr std::size_t kLine = 64;  // bytes of a cache line
  const std::byte *at_, *beyond_;
  std::size_t left_, per_step_;
};

/// 2^(i/8), i = 0..7, of which codec/scale.h's log8 scales are made.
inline constexpr std::array<float, 8> kOctave{0x1p0F,        0x1.172b84p0F, 0x1.306fep0F,  0x1.4bfdaep0F,
                                              0x1.6a09e6p0F, 0x1.8ace54p0F, 0x1.ae89fap0F, 0x1.d5818ep0F};

}  // namespace kvant::kernels
