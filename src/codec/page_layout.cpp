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
  KVANT_ASSERT(codes.size() == dims_);
  for (std::size_t dim = 0; dim < dims_; ++dim) set_code(page, token, dim, codes[dim]);
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
