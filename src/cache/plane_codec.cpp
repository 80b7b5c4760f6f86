#include "cache/plane_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/checked.h"
#include "base/error.h"
#include "base/random.h"

namespace kvant::cache {
namespace {

using codec::PageSide;

constexpr std::size_t kLeastGroup = 8, kMostGroup = 256;
constexpr std::size_t kMostDims = 512;  ///< that the kernels take
constexpr std::uint64_t kSignSeed = 0x6b76616e74;
/// From this many bits on a query of 8 bits would add to the error of the keys.
constexpr int kTwoPlaneBits = 6;

/// The quantizer of a smaller group with the levels of the first one, as a page has one table.
codec::Quantizer with_levels_of(const codec::Quantizer& first, std::size_t size) {
  if (first.kind == codec::QuantizerKind::uni) return codec::make_quantizer(first.kind, size, first.bits);
  codec::Quantizer q = first;
  q.dimension = size;
  q.gain *= static_cast<float>(std::sqrt(static_cast<double>(size) / static_cast<double>(first.dimension)));
  return q;
}

}  // namespace

/// Cuts a head into groups of `size` dims, the rest into descending powers of two. Each starts a block of 32.
std::vector<PlaneCodec::Group> PlaneCodec::cut(std::size_t head_dim, std::size_t size) {
  std::vector<Group> groups;
  std::size_t offset = 0;
  for (std::size_t first = 0; first < head_dim;) {
    const std::size_t count = std::min(size == 0 ? kMostGroup : size, std::bit_floor(head_dim - first));
    KVANT_CHECK(count >= kLeastGroup, ErrorCode::invalid_argument,
                "cache: head_dim {}, expected a multiple of {} for lm and uni types", head_dim, kLeastGroup);
    groups.push_back({first, count, offset});
    first += count;
    offset += round_up(count, codec::kPageDimBlock);
  }
  KVANT_CHECK(offset <= kMostDims, ErrorCode::invalid_argument,
              "cache: head_dim {} takes {} values in groups, expected at most {} for lm and uni types", head_dim,
              offset, kMostDims);
  return groups;
}

PlaneCodec::Layout PlaneCodec::lay_out(const codec::CacheSpec& spec, PageSide side, std::size_t head_dim) {
  const auto kind = spec.coding == codec::CacheSpec::Coding::lm ? codec::QuantizerKind::lm : codec::QuantizerKind::uni;
  std::vector<Group> groups = cut(head_dim, spec.group);
  std::vector<codec::Quantizer> quantizers;
  std::vector<std::uint16_t> blocks;
  for (const Group& g : groups) {
    blocks.insert(blocks.end(), round_up(g.size, codec::kPageDimBlock) / codec::kPageDimBlock,
                  static_cast<std::uint16_t>(quantizers.size()));
    quantizers.push_back(quantizers.empty() ? codec::make_quantizer(kind, g.size, spec.bits)
                                            : with_levels_of(quantizers.front(), g.size));
  }
  const codec::PageLayout layout(side, blocks.size() * codec::kPageDimBlock, spec.bits, groups.size(), spec.norm);
  kernels::CodedPages pages{layout, kernels::make_code_table(quantizers.front()), std::move(blocks)};
  return {std::move(groups), std::move(quantizers), std::move(pages)};
}

PlaneCodec::PlaneCodec(const codec::CacheSpec& spec, PageSide side, std::size_t head_dim, Isa isa)
    : PlaneCodec(spec, lay_out(spec, side, head_dim), head_dim, isa) {}

PlaneCodec::PlaneCodec(const codec::CacheSpec& spec, Layout layout, std::size_t head_dim, Isa isa)
    : PageCodec(layout.pages.layout.padded_dims(), layout.pages.layout.bytes()),
      norm_(spec.norm),
      planes_(spec.bits >= kTwoPlaneBits ? 2 : 1),
      head_dim_(head_dim),
      groups_(std::move(layout.groups)),
      quantizers_(std::move(layout.quantizers)),
      pages_(std::move(layout.pages)),
      transform_(kernels::fwht(isa)),
      score_(kernels::code_kernels(isa).score[static_cast<std::size_t>(spec.bits - 1)]),
      mix_(kernels::code_kernels(isa).mix[static_cast<std::size_t>(spec.bits - 1)]),
      largest_query_(kernels::code_kernels(isa).largest_query(spec.bits)),
      signs_(head_dim) {
  Random random(kSignSeed);
  for (float& s : signs_) s = random.uniform() < 0.5 ? -1.0F : 1.0F;
}

void PlaneCodec::rotate(float* x) const noexcept {
  for (std::size_t i = 0; i < head_dim_; ++i) x[i] *= signs_[i];
  for (std::size_t g = groups_.size(); g-- > 0;) {
    const auto [first, size, offset] = groups_[g];
    transform_(x + first, size);
    std::copy_backward(x + first, x + first + size, x + offset + size);
    std::fill(x + offset + size, x + offset + round_up(size, codec::kPageDimBlock), 0.0F);
  }
}

void PlaneCodec::unrotate(float* x) const noexcept {
  for (const auto& [first, size, offset] : groups_) {
    std::copy(x + offset, x + offset + size, x + first);
    transform_(x + first, size);
  }
  for (std::size_t i = 0; i < head_dim_; ++i) x[i] *= signs_[i];
}

bool PlaneCodec::store(float* x, std::byte* page, std::size_t token) const {
  rotate(x);
  std::uint8_t codes[kMostDims] = {};
  const std::span<std::byte> bytes(page, page_bytes());
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const Group& group = groups_[g];
    std::uint16_t scale = 0;
    const std::span<const float> values(x + group.offset, group.size);
    const std::span<std::uint8_t> out(codes + group.offset, group.size);
    if (!(shaping_.empty() ? codec::encode_vector(quantizers_[g], norm_, values, out, scale)
                           : codec::encode_vector_shaped(quantizers_[g], shaping_[g], norm_, values, out, scale))) {
      return false;
    }
    pages_.layout.set_scale(bytes, token, g, scale);
  }
  pages_.layout.set_codes(bytes, token, {codes, dims()});
  return true;
}

void PlaneCodec::reserve(QueryRows& q, std::size_t rows) const {
  q.reserve(rows * dims(), rows * query_values(), rows * query_scales());
}

void PlaneCodec::prepare(QueryRows& q, std::size_t rows) const noexcept {
  prepare(q.f32.data(), dims(), rows, {q.values.data(), q.units.data(), q.sums.data()});
}

void PlaneCodec::prepare(const float* q, std::size_t stride, std::size_t rows, const Queries& to) const noexcept {
  for (std::size_t r = 0; r < rows; ++r) {
    kernels::quantize_query(pages_, q + r * stride, static_cast<int>(planes_), largest_query_,
                            to.values + r * query_values(), to.units + r * query_scales(),
                            to.sums + r * query_scales());
  }
}

void PlaneCodec::score(const PageCall& call, const QueryRows& q, float* logits) const noexcept {
  score(call, {q.values.data(), q.units.data(), q.sums.data()}, logits, false);
}

void PlaneCodec::score(const PageCall& call, kernels::QuantizedQueries q, float* logits, bool add) const noexcept {
  q.planes = static_cast<int>(planes_);
  score_({pages_, q, call.rows, call.page, call.tokens, logits, call.next, add});
}

void PlaneCodec::mix(const PageCall& call, const float* weights, float* out) const noexcept {
  mix(call, weights, out, dims());
}

void PlaneCodec::mix(const PageCall& call, const float* weights, float* out, std::size_t stride) const noexcept {
  mix_({pages_, weights, call.rows, call.page, call.tokens, out, call.next, stride});
}

std::unique_ptr<PageCodec> PlaneCodec::shaped(std::span<const float> metric) const {
  auto codec = std::make_unique<PlaneCodec>(*this);
  codec->add_shaping(metric);
  return codec;
}

std::size_t PlaneCodec::constant_bytes() const noexcept {
  std::size_t bytes = signs_.size() * sizeof(float) + sizeof(pages_.table);
  for (const codec::Shaping& s : shaping_) bytes += s.metric.size() * sizeof(Bf16) + s.inverse.size() * sizeof(float);
  return bytes;
}

/// Brings the metric of each group into the basis of its codes.
void PlaneCodec::add_shaping(std::span<const float> metric) {
  for (const auto& [first, size, offset] : groups_) {
    std::vector<float> m(size * size), row(size);
    for (std::size_t i = 0; i < size; ++i) {
      for (std::size_t j = 0; j < size; ++j) m[i * size + j] = metric[(first + i) * head_dim_ + first + j];
    }
    for (int side = 0; side < 2; ++side) {  // rows, then, transposed, columns
      std::vector<float> turned(size * size);
      for (std::size_t i = 0; i < size; ++i) {
        for (std::size_t j = 0; j < size; ++j) row[j] = m[i * size + j] * signs_[first + j];
        transform_(row.data(), size);
        for (std::size_t j = 0; j < size; ++j) turned[j * size + i] = row[j];
      }
      m = std::move(turned);
    }
    shaping_.push_back(codec::make_shaping(std::vector<double>(m.begin(), m.end()), size));
  }
}

std::unique_ptr<PageCodec> make_plane_codec(const codec::CacheSpec& spec, PageSide side, std::size_t head_dim,
                                            Isa isa) {
  return std::make_unique<PlaneCodec>(spec, side, head_dim, isa);
}

}  // namespace kvant::cache
