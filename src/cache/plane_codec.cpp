#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "base/checked.h"
#include "base/error.h"
#include "base/random.h"
#include "cache/page_codec.h"
#include "codec/shaping.h"
#include "codec/vector_codec.h"
#include "kernels/codes/codes.h"
#include "kernels/fwht/fwht.h"

namespace kvant::cache {
namespace {

using codec::PageSide;

constexpr std::size_t kLeastGroup = 8, kMostGroup = 256;
constexpr std::size_t kMostDims = 512;  ///< that the kernels take
constexpr std::uint64_t kSignSeed = 0x6b76616e74;
/// From this many bits on a query of 8 bits would add to the error of the keys.
constexpr int kTwoPlaneBits = 6;

/// Consecutive dims with a rotation and a scale of their own.
struct Group {
  std::size_t first, size;  ///< dims of the head
  std::size_t offset;       ///< of the first in the stored vector
};

/// Cuts a head into groups of `size` dims, the rest into descending powers of two. Each starts a block of 32.
std::vector<Group> cut(std::size_t head_dim, std::size_t size) {
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

kernels::CodedPages make_pages(const codec::CacheSpec& spec, PageSide side, const std::vector<Group>& groups,
                               const codec::Quantizer& quantizer) {
  const std::size_t dims = groups.back().offset + round_up(groups.back().size, codec::kPageDimBlock);
  kernels::CodedPages pages{
      codec::PageLayout(side, dims, spec.bits, groups.size(), spec.norm), kernels::make_code_table(quantizer), {}};
  for (std::size_t g = 0; g < groups.size(); ++g) {
    pages.block_groups.insert(pages.block_groups.end(), round_up(groups[g].size, codec::kPageDimBlock) / 32,
                              static_cast<std::uint16_t>(g));
  }
  return pages;
}

/// The quantizer of a smaller group with the levels of the first one, as a page has one table.
codec::Quantizer with_levels_of(const codec::Quantizer& first, std::size_t size) {
  if (first.kind == codec::QuantizerKind::uni) return codec::make_quantizer(first.kind, size, first.bits);
  codec::Quantizer q = first;
  q.dimension = size;
  q.gain *= static_cast<float>(std::sqrt(static_cast<double>(size) / static_cast<double>(first.dimension)));
  return q;
}

class PlaneCodec final : public PageCodec {
 public:
  PlaneCodec(const codec::CacheSpec& spec, std::vector<Group> groups, std::vector<codec::Quantizer> quantizers,
             const kernels::CodedPages& pages, std::size_t head_dim, Isa isa)
      : PageCodec(pages.layout.padded_dims(), pages.layout.bytes()),
        norm_(spec.norm),
        planes_(spec.bits >= kTwoPlaneBits ? 2 : 1),
        head_dim_(head_dim),
        groups_(std::move(groups)),
        quantizers_(std::move(quantizers)),
        pages_(pages),
        transform_(kernels::fwht(isa)),
        score_(kernels::code_kernels(isa).score[static_cast<std::size_t>(spec.bits - 1)]),
        mix_(kernels::code_kernels(isa).mix[static_cast<std::size_t>(spec.bits - 1)]),
        signs_(head_dim) {
    Random random(kSignSeed);
    for (float& s : signs_) s = random.uniform() < 0.5 ? -1.0F : 1.0F;
  }

  float largest_storable() const override { return codec::kMaxMagnitude; }

  void rotate(float* x) const noexcept override {
    for (std::size_t i = 0; i < head_dim_; ++i) x[i] *= signs_[i];
    for (std::size_t g = groups_.size(); g-- > 0;) {
      const auto [first, size, offset] = groups_[g];
      transform_(x + first, size);
      std::copy_backward(x + first, x + first + size, x + offset + size);
      std::fill(x + offset + size, x + offset + round_up(size, codec::kPageDimBlock), 0.0F);
    }
  }
  void unrotate(float* x) const noexcept override {
    for (const auto& [first, size, offset] : groups_) {
      std::copy(x + offset, x + offset + size, x + first);
      transform_(x + first, size);
    }
    for (std::size_t i = 0; i < head_dim_; ++i) x[i] *= signs_[i];
  }
  bool store(float* x, std::byte* page, std::size_t token) const override {
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

  void reserve(QueryRows& q, std::size_t rows) const override {
    const std::size_t planes = static_cast<std::size_t>(planes_);
    q.f32 = AlignedBuffer<float>(rows * dims());
    q.values = AlignedBuffer<std::int8_t>(rows * planes * dims());
    q.units = AlignedBuffer<float>(rows * planes * groups_.size());
    q.sums = AlignedBuffer<std::int32_t>(rows * planes * groups_.size());
  }
  void prepare(QueryRows& q, std::size_t rows) const noexcept override {
    const std::size_t planes = static_cast<std::size_t>(planes_), scales = planes * groups_.size();
    for (std::size_t r = 0; r < rows; ++r) {
      kernels::quantize_query(pages_, q.f32.data() + r * dims(), planes_, q.values.data() + r * planes * dims(),
                              q.units.data() + r * scales, q.sums.data() + r * scales);
    }
  }
  void score(const PageCall& call, const QueryRows& q, float* logits) const noexcept override {
    score_({pages_,
            {q.values.data(), q.units.data(), q.sums.data(), planes_},
            call.rows,
            call.page,
            call.tokens,
            logits,
            call.next});
  }
  void mix(const PageCall& call, const float* weights, const float* rescale, float* out) const noexcept override {
    mix_({pages_, weights, rescale, call.rows, call.page, call.tokens, out, call.next});
  }
  std::unique_ptr<PageCodec> shaped(std::span<const float> metric) const override {
    auto codec = std::make_unique<PlaneCodec>(*this);
    codec->add_shaping(metric);
    return codec;
  }
  std::size_t constant_bytes() const noexcept override {
    std::size_t bytes = signs_.size() * sizeof(float) + sizeof(pages_.table);
    for (const codec::Shaping& s : shaping_) bytes += s.metric.size() * sizeof(Bf16) + s.inverse.size() * sizeof(float);
    return bytes;
  }

 private:
  /// Brings the metric of each group into the basis of its codes.
  void add_shaping(std::span<const float> metric) {
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

  codec::ScaleFormat norm_;
  int planes_;  ///< of the queries
  std::size_t head_dim_;
  std::vector<Group> groups_;
  std::vector<codec::Quantizer> quantizers_;  ///< of each group
  kernels::CodedPages pages_;
  kernels::FwhtFunction transform_;
  void (*score_)(const kernels::CodeScoreArgs&) noexcept;
  void (*mix_)(const kernels::CodeMixArgs&) noexcept;
  std::vector<float> signs_;
  std::vector<codec::Shaping> shaping_;  ///< of each group, or none
};

}  // namespace

std::unique_ptr<PageCodec> make_plane_codec(const codec::CacheSpec& spec, PageSide side, std::size_t head_dim,
                                            Isa isa) {
  const auto kind = spec.coding == codec::CacheSpec::Coding::lm ? codec::QuantizerKind::lm : codec::QuantizerKind::uni;
  std::vector<Group> groups = cut(head_dim, spec.group);
  std::vector<codec::Quantizer> quantizers;
  quantizers.reserve(groups.size());
  for (const Group& g : groups) {
    quantizers.push_back(quantizers.empty() ? codec::make_quantizer(kind, g.size, spec.bits)
                                            : with_levels_of(quantizers.front(), g.size));
  }
  const kernels::CodedPages pages = make_pages(spec, side, groups, quantizers.front());
  return std::make_unique<PlaneCodec>(spec, std::move(groups), std::move(quantizers), pages, head_dim, isa);
}

}  // namespace kvant::cache
