#include <array>
#include <cstring>

#include "codec/scale.h"
#include "kernels/codes/codes.h"
#include "kernels/codes/common.h"

namespace kvant::kernels::scalar {
extern const CodeKernels kCodes;
namespace {

constexpr int kCoarseWeight = 255;

/// The bytes of a page, [tokens][padded dims].
struct PageBytes {
  std::array<std::uint8_t, kPageTokens * kMaxCodedDims> bytes;
  std::size_t dims;

  PageBytes(const CodedPages& pages, const std::byte* page, std::size_t tokens) noexcept
      : dims(pages.layout.padded_dims()) {
    std::memset(bytes.data(), 0, tokens * dims);
    for (const codec::BitPlane& plane : pages.layout.planes()) add(pages.layout, plane, page, tokens);
    if (pages.table.bits > 6) return;
    for (std::size_t i = 0; i < tokens * dims; ++i) bytes[i] = pages.table.bytes[bytes[i]];
  }

  void add(const codec::PageLayout& layout, const codec::BitPlane& plane, const std::byte* page,
           std::size_t tokens) noexcept {
    const std::uint32_t mask = (1U << plane.width) - 1;
    for (std::size_t t = 0; t < tokens; ++t) {
      for (std::size_t i = 0; i < dims; ++i) {
        const codec::PlaneField field = layout.field(plane.width, t, i);
        std::uint32_t word = 0;
        std::memcpy(&word, page + plane.offset + 4 * field.word, sizeof word);
        bytes[t * dims + i] |= static_cast<std::uint8_t>((word >> field.shift & mask) << plane.first_bit);
      }
    }
  }
  const std::uint8_t* token(std::size_t t) const noexcept { return bytes.data() + t * dims; }
};

float scale_of(const CodedPages& pages, const std::byte* page, std::size_t group, std::size_t token) noexcept {
  std::uint16_t stored = 0;
  const codec::ScaleFormat format = pages.layout.scales();
  std::memcpy(&stored, page + pages.layout.scale_offset(group, token), codec::scale_bytes(format));
  return codec::decode_scale(format, stored);
}

void score(const CodeScoreArgs& a) noexcept {
  const PageBytes bytes(a.pages, a.page, a.tokens);
  const std::size_t dims = bytes.dims, groups = a.pages.layout.groups();
  const auto planes = static_cast<std::size_t>(a.q.planes);
  for (std::size_t r = 0; r < a.rows && !a.add; ++r) std::fill_n(a.logits + r * kPageTokens, a.tokens, 0.0F);
  for (Group g = group_at(a.pages, 0); g.count > 0; g = group_at(a.pages, g.first + g.count)) {
    for (std::size_t t = 0; t < a.tokens; ++t) {
      const float scale = scale_of(a.pages, a.page, g.index, t);
      for (std::size_t row = 0; row < a.rows * planes; ++row) {
        const std::int8_t* q = a.q.values + row * dims;
        std::int32_t sum = 0;
        for (std::size_t i = g.first; i < g.first + g.count; ++i) sum += q[i] * bytes.token(t)[i];
        sum = a.pages.table.step * sum - a.pages.table.offset * a.q.sums[row * groups + g.index];
        a.logits[row / planes * kPageTokens + t] += a.q.units[row * groups + g.index] * scale * static_cast<float>(sum);
      }
    }
  }
}

/// Rounds the products of a row's weights with the scales of a group to whole numbers. Returns their unit.
float quantize_weights(const float* weights, const float* scales, std::size_t tokens, bool coarse,
                       std::int32_t* whole) noexcept {
  float products[kPageTokens];
  float peak = 0;
  for (std::size_t t = 0; t < tokens; ++t) peak = std::max(peak, products[t] = weights[t] * scales[t]);
  if (peak < kNegligible) {
    std::fill_n(whole, tokens, 0);
    return 0;
  }
  const auto most = static_cast<float>(coarse ? kCoarseWeight : kFineWeight);
  const float factor = most / peak;
  for (std::size_t t = 0; t < tokens; ++t) whole[t] = nearest_whole(products[t] * factor + (coarse ? kDither[t] : 0));
  return peak / most;
}

void mix(const CodeMixArgs& a) noexcept {
  const PageBytes bytes(a.pages, a.page, a.tokens);
  for (Group g = group_at(a.pages, 0); g.count > 0; g = group_at(a.pages, g.first + g.count)) {
    float scales[kPageTokens];
    for (std::size_t t = 0; t < a.tokens; ++t) scales[t] = scale_of(a.pages, a.page, g.index, t);
    for (std::size_t r = 0; r < a.rows; ++r) {
      std::int32_t whole[kPageTokens];
      const float unit =
          quantize_weights(a.weights + r * kPageTokens, scales, a.tokens, a.pages.table.bits <= kCoarseBits, whole);
      std::int32_t offset = 0;
      for (std::size_t t = 0; t < a.tokens; ++t) offset += a.pages.table.offset * whole[t];
      for (std::size_t i = g.first; i < g.first + g.count; ++i) {
        std::int32_t sum = 0;
        for (std::size_t t = 0; t < a.tokens; ++t) sum += whole[t] * bytes.token(t)[i];
        a.out[r * out_stride(a) + i] += unit * static_cast<float>(a.pages.table.step * sum - offset);
      }
    }
  }
}

}  // namespace

constinit const CodeKernels kCodes{
    127,
    kCoarseWeight,
    {score, score, score, score, score, score, score, score},
    {mix, mix, mix, mix, mix, mix, mix, mix},
};

}  // namespace kvant::kernels::scalar
