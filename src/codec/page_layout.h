#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/checked.h"
#include "base/error.h"
#include "codec/scale.h"

namespace kvant::codec {

/// Tokens of one page.
inline constexpr std::size_t kPageTokens = 64;
/// Dims are padded to whole blocks of this many; the padding is part of the page and counted in its bytes.
inline constexpr std::size_t kPageDimBlock = 32;

/// K pages are read token by token (dot products with a query), V pages dim by dim (sums over tokens).
enum class PageSide : std::uint8_t { key, value };

/// Where a field of a bit plane lies: bits [shift, shift + width) of the little-endian 32-bit word at index `word`.
struct PlaneField {
  std::size_t word = 0;
  int shift = 0;
  friend bool operator==(const PlaneField&, const PlaneField&) = default;
};

/// One bit plane: bits [first_bit, first_bit + width) of every code.
struct BitPlane {
  int width = 0;
  int first_bit = 0;
  std::size_t offset = 0;  ///< bytes from the start of the page
};

/// The bytes of a page: codes of `bits` bits for 64 tokens of one layer and KV head, in bit planes of 4, 2 and 1 bits,
/// then 64 scales for each group of dims. With D = padded_dims():
///
/// - Planes, low bits of the code first: 1 bit: 1; 2: 2; 3: 2+1; 4: 4; 5: 4+1; 6: 4+2; 7: 4+2+1; 8: 4+4. A plane of
///   width w takes 8 D w bytes.
/// - K: word i * 64 + token holds dims [i n, (i + 1) n), n = 32 / w, of one token. The dim with index 4 k + b there
///   (b = 0..3) lies at bit 8 b + w k: (word >> w k) & mask gives four consecutive dims in the four bytes.
/// - V, the mirror: word (token / 8) * W + x, W = D w / 4, holds 8 tokens of the 4 / w dims x, x + W, .. . With
///   o = token % 8 / 4, b = token % 4, dim x + c W lies at bit 8 b + w (2 c + o): a shift and a mask give four
///   consecutive tokens of one dim.
/// - Scales: group after group, token after token, scale_bytes(scales()) each.
///
/// Every part starts at a multiple of 64 bytes. Field values of padding are 0 in a page that started as zeros.
class PageLayout {
 public:
  /// `dims` values per token, 1..4096, codes of 1..8 bits, `groups` scales per token (at least 1). Throws
  /// invalid_argument outside these ranges.
  constexpr PageLayout(PageSide side, std::size_t dims, int bits, std::size_t groups, ScaleFormat scales);

  constexpr PageSide side() const { return side_; }
  constexpr std::size_t dims() const { return dims_; }
  constexpr std::size_t padded_dims() const { return round_up(dims_, kPageDimBlock); }
  constexpr int bits() const { return bits_; }
  constexpr std::size_t groups() const { return groups_; }
  constexpr ScaleFormat scales() const { return scales_; }

  /// The planes in stored order, low bits first.
  constexpr std::span<const BitPlane> planes() const { return {planes_.data(), plane_count_}; }
  /// Bytes of all planes, which is where the scales start.
  constexpr std::size_t code_bytes() const { return 8 * padded_dims() * static_cast<std::size_t>(bits_); }
  constexpr std::size_t scale_offset(std::size_t group, std::size_t token) const {
    return code_bytes() + (group * kPageTokens + token) * scale_bytes(scales_);
  }
  /// Bytes of the page.
  constexpr std::size_t bytes() const { return scale_offset(groups_, 0); }
  /// The field of one code in a plane of `width` bits.
  constexpr PlaneField field(int width, std::size_t token, std::size_t dim) const;

  // Access to one page of bytes() bytes. token < 64, dim < dims(), group < groups().

  std::uint8_t code(std::span<const std::byte> page, std::size_t token, std::size_t dim) const;
  /// `code` < 2^bits().
  void set_code(std::span<std::byte> page, std::size_t token, std::size_t dim, std::uint8_t code) const;
  /// All dims() codes of a token.
  void codes(std::span<const std::byte> page, std::size_t token, std::span<std::uint8_t> out) const;
  void set_codes(std::span<std::byte> page, std::size_t token, std::span<const std::uint8_t> codes) const;
  /// The stored form of a scale (scale.h).
  std::uint16_t scale(std::span<const std::byte> page, std::size_t token, std::size_t group) const;
  void set_scale(std::span<std::byte> page, std::size_t token, std::size_t group, std::uint16_t stored) const;

 private:
  PageSide side_;
  std::size_t dims_;
  int bits_;
  std::size_t groups_;
  ScaleFormat scales_;
  std::array<BitPlane, 3> planes_{};
  std::size_t plane_count_ = 0;
};

constexpr PageLayout::PageLayout(PageSide side, std::size_t dims, int bits, std::size_t groups, ScaleFormat scales)
    : side_(side), dims_(dims), bits_(bits), groups_(groups), scales_(scales) {
  KVANT_CHECK(dims >= 1 && dims <= 4096, ErrorCode::invalid_argument, "page: {} dims, expected 1 to 4096", dims);
  KVANT_CHECK(bits >= 1 && bits <= 8, ErrorCode::invalid_argument, "page: {} bits, expected 1 to 8", bits);
  KVANT_CHECK(groups >= 1 && groups <= dims, ErrorCode::invalid_argument, "page: {} groups of {} dims", groups, dims);
  for (int first = 0; first < bits;) {
    const int left = bits - first, width = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    planes_[plane_count_++] = {width, first, 8 * padded_dims() * static_cast<std::size_t>(first)};
    first += width;
  }
}

constexpr PlaneField PageLayout::field(int width, std::size_t token, std::size_t dim) const {
  const auto w = static_cast<std::size_t>(width);
  if (side_ == PageSide::key) {
    const std::size_t per_word = 32 / w, inside = dim % per_word;
    return {dim / per_word * kPageTokens + token, static_cast<int>(8 * (inside % 4) + w * (inside / 4))};
  }
  const std::size_t words = padded_dims() * w / 4, half = token % 8 / 4;
  return {token / 8 * words + dim % words, static_cast<int>(8 * (token % 4) + w * (2 * (dim / words) + half))};
}

}  // namespace kvant::codec
