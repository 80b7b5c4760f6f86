#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kvant::codec {

/// The `flex` key formats of an earlier system (TurboQuant with per-layer adaptive layouts), kept so that its results
/// can be compared on the same model: blocks are byte for byte those of its GPU kernels. One block holds one key vector
/// of 128 dims after RoPE. Its CPU encoder stores the residual signs of blocks without a split in another basis than
/// its decoder assumes; that defect is not reproduced.
inline constexpr std::size_t kFlexDims = 128;
inline constexpr std::size_t kFlexOutliers = 32;

/// A layout, in text flex:S:H:L:JH:JL.
struct FlexSpec {
  /// 32 outlier channels and the other 96 are coded apart. Without, all 128 are coded with hi_bits and hi_signs, and
  /// lo_bits and lo_signs mean nothing.
  bool split = false;
  int hi_bits = 0;        ///< 1..10
  int lo_bits = 0;        ///< 1..8; 0..8 without split
  bool hi_signs = false;  ///< one more bit per value: the sign of what is left, with one magnitude per vector
  bool lo_signs = false;
  /// Text form flexfix: the stored magnitude is the mean absolute residual, the best step for a sign in an orthonormal
  /// basis. In the earlier form it is the residual's norm g, and the step sqrt(pi/2) g / m is too small by about
  /// sqrt(m), m being 32, 96 or 128.
  bool least_squares_step = false;

  friend bool operator==(const FlexSpec&, const FlexSpec&) = default;
};

/// Parses flex:S:H:L:JH:JL or flexfix:S:H:L:JH:JL; throws invalid_argument naming the field that is wrong.
FlexSpec parse_flex_spec(std::string_view text);
/// The text form; parse_flex_spec(to_string(s)) == s.
std::string to_string(const FlexSpec& spec);
/// Throws invalid_argument when a field is out of its range.
void check(const FlexSpec& spec);
/// Bytes of a block. Split: 4 + 4 H + 12 L, 6 more with JH, 14 more with JL. Otherwise 2 + 16 H, 18 more with JH.
std::size_t flex_bytes(const FlexSpec& spec);

/// The channels of one layer and KV head in the order of the codes: 32 outliers ascending, then the others ascending.
struct FlexChannels {
  std::array<std::uint8_t, kFlexDims> order{};
};

/// The outliers are the first 32 entries of a permutation of 0..127. Throws format when it is none.
FlexChannels make_flex_channels(std::span<const std::uint8_t> permutation);

/// Encoder and decoder of one layout.
class FlexCodec {
 public:
  /// Solves for the codebooks. Throws as check() does.
  explicit FlexCodec(const FlexSpec& spec);

  const FlexSpec& spec() const { return spec_; }
  std::size_t bytes() const { return flex_bytes(spec_); }

  /// The basis in which values are coded, in float: without split the Walsh-Hadamard transform of x; with split that of
  /// the outliers and of each third of the others, in the order of `channels`. Queries are rotated likewise.
  /// Spans of 128 values.
  void rotate(std::span<const float> x, const FlexChannels& channels, std::span<float> rotated) const;

  /// Encodes 128 values into bytes() bytes; `channels` is used with a split only. Returns false, leaving the block
  /// undefined, when a value is NaN or a norm is not finite. Stored norms saturate at 65504.
  bool encode(std::span<const float> x, const FlexChannels& channels, std::span<std::byte> block) const;

  /// The values that a block stands for, in the basis of rotate().
  void decode_rotated(std::span<const std::byte> block, std::span<double> rotated) const;
  /// The same in the order and basis of encode's x.
  void decode(std::span<const std::byte> block, const FlexChannels& channels, std::span<double> x) const;

 private:
  /// One run of values with a norm of its own.
  struct Part {
    std::size_t first, count, transform;  ///< rotated[first, first + count), in transforms of this size
    int bits;
    bool signs;
    std::size_t norm_at, codes_at, signs_at;  ///< byte offsets in the block; signs_at: magnitude, then sign bits
    std::vector<float> levels;
  };

  void add_part(std::size_t first, std::size_t count, std::size_t transform, int bits, bool signs);
  bool encode_part(const Part& part, std::span<const float> raw, std::span<const float> rotated,
                   std::span<std::byte> block) const;

  FlexSpec spec_;
  std::vector<Part> parts_;
};

}  // namespace kvant::codec
