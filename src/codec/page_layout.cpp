#include "codec/page_layout.h"

#include <bit>
#include <cstring>

namespace kvant::codec {
namespace {

static_assert(std::endian::native == std::endian::little, "pages are accessed in place");

std::uint32_t load_word(std::span<const std::byte> page, std::size_t offset) {
  KVANT_ASSERT(offset + 4 <= page.size());
  std::uint32_t word = 0;
  std::memcpy(&word, page.data() + offset, sizeof(word));
  return word;
}

constexpr std::uint32_t kEachByte = 0x01010101;

/// The words of one token: bytes of four consecutive dims side by side.
void set_key_plane(const BitPlane& plane, std::span<const std::uint8_t> codes, std::byte* data, std::size_t token) {
  const std::uint32_t mask = ((1U << plane.width) - 1) * kEachByte;
  data += 4 * token;
  for (const std::uint8_t* code = codes.data(); code != codes.data() + codes.size(); data += 4 * kPageTokens) {
    std::uint32_t word = 0;
    for (int shift = 0; shift < 8; shift += plane.width, code += 4) {
      std::uint32_t four = 0;
      std::memcpy(&four, code, sizeof(four));
      word |= (four >> plane.first_bit & mask) << shift;
    }
    std::memcpy(data, &word, sizeof(word));
  }
}

/// One token's fields of the words that it shares with seven others: dims x, x + words, ...
void set_value_plane(const BitPlane& plane, std::span<const std::uint8_t> codes, std::byte* data, std::size_t token) {
  const std::size_t words = codes.size() * static_cast<std::size_t>(plane.width) / 4;
  const std::uint32_t mask = (1U << plane.width) - 1;
  const int first_shift = static_cast<int>(8 * (token % 4)) + plane.width * static_cast<int>(token % 8 / 4);
  std::uint32_t others = ~0U;
  for (int shift = 0; shift < 8; shift += 2 * plane.width) others &= ~(mask << shift << first_shift);
  data += token / 8 * words * 4;
  for (std::size_t x = 0; x < words; ++x, data += 4) {
    std::uint32_t fields = 0;
    const std::uint8_t* code = codes.data() + x;
    for (int shift = 0; shift < 8; shift += 2 * plane.width, code += words) {
      fields |= (static_cast<std::uint32_t>(*code) >> plane.first_bit & mask) << shift;
    }
    std::uint32_t word = 0;
    std::memcpy(&word, data, sizeof(word));
    word = (word & others) | fields << first_shift;
    std::memcpy(data, &word, sizeof(word));
  }
}

}  // namespace

std::uint8_t PageLayout::code(std::span<const std::byte> page, std::size_t token, std::size_t dim) const {
  KVANT_ASSERT(token < kPageTokens && dim < dims_);
  std::uint32_t code = 0;
  for (const BitPlane& plane : planes()) {
    const PlaneField at = field(plane.width, token, dim);
    const std::uint32_t mask = (1U << plane.width) - 1;
    code |= (load_word(page, plane.offset + 4 * at.word) >> at.shift & mask) << plane.first_bit;
  }
  return static_cast<std::uint8_t>(code);
}

void PageLayout::set_code(std::span<std::byte> page, std::size_t token, std::size_t dim, std::uint8_t code) const {
  KVANT_ASSERT(token < kPageTokens && dim < dims_ && code >> bits_ == 0);
  for (const BitPlane& plane : planes()) {
    const PlaneField at = field(plane.width, token, dim);
    const std::uint32_t mask = (1U << plane.width) - 1;
    const std::uint32_t value = static_cast<std::uint32_t>(code) >> plane.first_bit & mask;
    const std::size_t offset = plane.offset + 4 * at.word;
    const std::uint32_t word = (load_word(page, offset) & ~(mask << at.shift)) | value << at.shift;
    std::memcpy(page.data() + offset, &word, sizeof(word));
  }
}

void PageLayout::codes(std::span<const std::byte> page, std::size_t token, std::span<std::uint8_t> out) const {
  KVANT_ASSERT(out.size() == dims_);
  for (std::size_t dim = 0; dim < dims_; ++dim) out[dim] = code(page, token, dim);
}

void PageLayout::set_codes(std::span<std::byte> page, std::size_t token, std::span<const std::uint8_t> codes) const {
  KVANT_ASSERT(codes.size() == dims_ && token < kPageTokens && page.size() >= code_bytes());
  if (dims_ != padded_dims()) {  // the padding keeps its bits
    for (std::size_t dim = 0; dim < dims_; ++dim) set_code(page, token, dim, codes[dim]);
    return;
  }
  for (const BitPlane& plane : planes()) {
    if (side_ == PageSide::key) {
      set_key_plane(plane, codes, page.data() + plane.offset, token);
    } else {
      set_value_plane(plane, codes, page.data() + plane.offset, token);
    }
  }
}

std::uint16_t PageLayout::scale(std::span<const std::byte> page, std::size_t token, std::size_t group) const {
  KVANT_ASSERT(token < kPageTokens && group < groups_ && page.size() >= bytes());
  std::uint16_t stored = 0;
  std::memcpy(&stored, page.data() + scale_offset(group, token), scale_bytes(scales_));
  return stored;
}

void PageLayout::set_scale(std::span<std::byte> page, std::size_t token, std::size_t group,
                           std::uint16_t stored) const {
  KVANT_ASSERT(token < kPageTokens && group < groups_ && page.size() >= bytes());
  std::memcpy(page.data() + scale_offset(group, token), &stored, scale_bytes(scales_));
}

}  // namespace kvant::codec
