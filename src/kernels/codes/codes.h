#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/cpu.h"
#include "codec/page_layout.h"
#include "codec/vector_codec.h"
#include "kernels/attention/attention.h"
#include "kernels/registry.h"

/// Attention over pages of codes (codec/page_layout.h): whole-number dot products with the query, or with the softmax
/// weights, as quantized below. A page's levels are looked up in registers, or, for many rows, once for all. Rows and
/// the softmax that joins score and mix are those of kernels/attention/attention.h, and as there each row's result has
/// the same bits whatever other rows stand beside it. All kernels are noexcept and allocate nothing.
namespace kvant::kernels {

/// A code as a number: level = step * bytes[code] - offset. Above 6 bits bytes[code] is the code itself and step 2, up
/// to 6 bits step is 1 and offset 128.
struct CodeTable {
  int bits = 0;                          ///< 1..8
  std::array<std::uint8_t, 64> bytes{};  ///< 2^bits entries, repeated to fill all 64
  std::int32_t step = 1, offset = 0;
};

/// The table of a quantizer's levels, exact.
CodeTable make_code_table(const codec::Quantizer& quantizer);

/// How the pages of one side are stored. Each group of dims has one scale per token and takes whole blocks of 32 dims,
/// the last one padded.
struct CodedPages {
  codec::PageLayout layout;
  CodeTable table;
  std::vector<std::uint16_t> block_groups;  ///< [padded dims / 32] group of each block, not falling
};

/// A row of `query_planes` whole-number vectors stands for a query: q = sum_p unit[p] * (whole numbers of plane p),
/// unit[p] a factor for each group. One plane keeps 8 bits of the query, two keep 15.
struct QuantizedQueries {
  const std::int8_t* values;  ///< [rows][planes][padded dims], -127..127, padding 0
  const float* units;         ///< [rows][planes][groups]
  const std::int32_t* sums;   ///< [rows][planes][groups] of the values of a group
  int planes = 1;             ///< 1 or 2
};

/// Quantizes a query of padded dims f32 (padding 0), for each group: unit = max |q| / largest; the second plane takes
/// what the first one leaves in the same way. Writes values [planes][dims], units and sums [planes][groups].
/// largest  what the kernel takes (CodeKernels), at most 127
void quantize_query(const CodedPages& pages, const float* q, int planes, int largest, std::int8_t* values, float* units,
                    std::int32_t* sums) noexcept;

/// logits[r][t] = sum over groups g of unit[r][g] * scale[g][t] * sum over dims i of g of values[r][i] * level(t, i)
/// (r < rows, t < tokens), planes added. The inner sum is an exact whole number.
struct CodeScoreArgs {
  const CodedPages& pages;
  QuantizedQueries q;
  std::size_t rows;       ///< >= 1
  const std::byte* page;  ///< of keys; all of it may be read
  std::size_t tokens;     ///< 1 to 64
  float* logits;          ///< [rows][64]; undefined from `tokens` on
  const Upcoming& next = kNothing;
  bool add = false;  ///< to what logits holds, instead of overwriting it
};

/// out[r][i] += sum_t weight[r][t] * scale[g(i)][t] * level(t, i)   (t < tokens)
///
/// For each row and group the products weight * scale are rounded to whole numbers, the largest becoming
/// 127 * 128 + 127; for codes of up to 4 bits, whose errors are far larger, CodeKernels::coarse_weight, and rounding is
/// dithered by the token (common.h), so that sums over tokens have no bias. The sum over tokens is then exact.
struct CodeMixArgs {
  const CodedPages& pages;
  const float* weights;   ///< [rows][64], >= 0; not read from `tokens` on
  std::size_t rows;       ///< >= 1
  const std::byte* page;  ///< of values; all of it may be read
  std::size_t tokens;     ///< 1 to 64
  float* out;             ///< [rows][padded dims]
  const Upcoming& next = kNothing;
  std::size_t stride = 0;  ///< from a row of out to the next; 0: padded dims
};

/// Codes of up to so many bits are mixed by coarse weights (CodeMixArgs).
inline constexpr int kCoarseBits = 4;

/// All kernels of one tier.
struct CodeKernels {
  /// Magnitude of a query's whole numbers at most, over codes of up to 4 bits: 127, or 64 where products of bytes are
  /// added in 16 bits. Over more bits it is 127 on every tier.
  int coarse_query;
  /// What the largest of the coarse weights becomes: 255, or 127 where products of bytes are added in 16 bits.
  int coarse_weight;
  /// [bits - 1]
  std::array<void (*)(const CodeScoreArgs&) noexcept, 8> score;
  std::array<void (*)(const CodeMixArgs&) noexcept, 8> mix;

  int largest_query(int bits) const noexcept { return bits <= kCoarseBits ? coarse_query : 127; }
};

/// The kernels of all tiers, the most capable first.
std::span<const Implementation<const CodeKernels*>> code_implementations() noexcept;
/// The kernels for an instruction set.
const CodeKernels& code_kernels(Isa isa) noexcept;

}  // namespace kvant::kernels
