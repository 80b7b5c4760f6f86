#include <algorithm>
#include <cmath>
#include <vector>

#include "base/hash.h"
#include "cache/plane_codec.h"
#include "codec/lanes.h"

namespace kvant::cache {
namespace {

using codec::CodePart;

constexpr std::size_t kWhole = 1 << 16;  ///< a page

/// A part of the vectors.
struct Part {
  std::size_t first, dims;
  std::unique_ptr<PlaneCodec> codec;   ///< null where it is not stored
  std::size_t offset = 0;              ///< bytes of a page before it
  std::size_t values = 0, scales = 0;  ///< of a query before it
  std::size_t before = 0, after = 0;   ///< bytes of a page before it and up to its end, of kWhole
};

std::unique_ptr<PlaneCodec> make_codec(const CodePart& part, codec::PageSide side, Isa isa) {
  using Coding = codec::CacheSpec::Coding;
  codec::CacheSpec spec;
  spec.coding = part.kind == codec::QuantizerKind::lm ? Coding::lm : Coding::uni;
  spec.bits = part.bits;
  spec.norm = part.norm;
  return std::make_unique<PlaneCodec>(spec, side, part.dims, isa);
}

std::vector<Part> make_parts(std::span<const CodePart> codes, codec::PageSide side, Isa isa) {
  std::vector<Part> parts;
  std::size_t first = 0, offset = 0, values = 0, scales = 0;
  for (const CodePart& code : codes) {
    Part& part = parts.emplace_back(Part{first, code.dims, nullptr, offset, values, scales});
    first += code.dims;
    if (code.bits == 0) continue;
    part.codec = make_codec(code, side, isa);
    offset += part.codec->page_bytes();
    values += part.codec->query_values();
    scales += part.codec->query_scales();
  }
  for (Part& part : parts) {
    if (!part.codec) continue;
    part.before = part.offset * kWhole / offset;
    part.after = (part.offset + part.codec->page_bytes()) * kWhole / offset;
  }
  return parts;
}

class PartsCodec final : public PageCodec {
 public:
  PartsCodec(std::span<const CodePart> codes, std::vector<Part> parts)
      : PageCodec(parts.back().first + parts.back().dims, codec::page_bytes(codes)), parts_(std::move(parts)) {
    std::vector<std::uint64_t> numbers;
    for (const CodePart& c : codes) {
      numbers.insert(numbers.end(), {c.dims, static_cast<std::uint64_t>(c.kind), static_cast<std::uint64_t>(c.bits),
                                     static_cast<std::uint64_t>(c.norm)});
    }
    identity_ = hash_bytes(std::as_bytes(std::span(numbers)));
    for (const Part& part : parts_) {
      if (!part.codec) continue;
      values_ += part.codec->query_values();
      scales_ += part.codec->query_scales();
    }
  }

  float largest_storable() const override { return codec::kMaxMagnitude; }

  void rotate(float* x) const noexcept override {
    for (const Part& part : parts_) {
      if (part.codec) part.codec->rotate(x + part.first);
    }
  }
  void unrotate(float* x) const noexcept override {
    for (const Part& part : parts_) {
      if (part.codec) part.codec->unrotate(x + part.first);
    }
  }
  bool store(float* x, std::byte* page, std::size_t token) const override {
    for (const Part& part : parts_) {
      float* values = x + part.first;
      const bool fits = part.codec ? part.codec->store(values, page + part.offset, token)
                                   : std::all_of(values, values + part.dims,
                                                 [](float v) { return std::abs(v) <= codec::kMaxMagnitude; });
      if (!fits) return false;
    }
    return true;
  }

  void reserve(QueryRows& q, std::size_t rows) const override {
    q.reserve(rows * dims(), rows * values_, rows * scales_);
  }
  void prepare(QueryRows& q, std::size_t rows) const noexcept override {
    for (const Part& part : parts_) {
      if (!part.codec) continue;
      const std::size_t scales = rows * part.scales;
      part.codec->prepare(q.f32.data() + part.first, dims(), rows,
                          {q.values.data() + rows * part.values, q.units.data() + scales, q.sums.data() + scales});
    }
  }
  void score(const PageCall& call, const QueryRows& q, float* logits) const noexcept override {
    bool add = false;
    for (const Part& part : parts_) {
      if (!part.codec) continue;
      const std::size_t scales = call.rows * part.scales;
      const kernels::Upcoming next = next_of(call, part);
      part.codec->score({call.page + part.offset, call.rows, call.tokens, next, call.scratch},
                        {q.values.data() + call.rows * part.values, q.units.data() + scales, q.sums.data() + scales},
                        logits, add);
      add = true;
    }
    if (!add) std::fill_n(logits, call.rows * kernels::kPageTokens, 0.0F);
  }
  void mix(const PageCall& call, const float* weights, float* out) const noexcept override {
    for (const Part& part : parts_) {
      if (!part.codec) continue;
      const kernels::Upcoming next = next_of(call, part);
      part.codec->mix({call.page + part.offset, call.rows, call.tokens, next, call.scratch}, weights, out + part.first,
                      dims());
    }
  }
  std::size_t constant_bytes() const noexcept override {
    std::size_t bytes = 0;
    for (const Part& part : parts_) bytes += part.codec ? part.codec->constant_bytes() : 0;
    return bytes;
  }
  std::uint64_t identity() const noexcept override { return identity_; }

 private:
  /// Each part starts to load as much of what comes next as it is of the page.
  static kernels::Upcoming next_of(const PageCall& call, const Part& part) {
    constexpr std::size_t kLine = 64;
    const std::size_t lines = call.next.bytes / kLine;
    const auto before = [&](std::size_t share) { return lines * share / kWhole * kLine; };
    const std::size_t first = before(part.before);
    return {call.next.data + first, before(part.after) - first,
            call.next.beyond == nullptr ? nullptr : call.next.beyond + first};
  }

  std::vector<Part> parts_;
  std::size_t values_ = 0, scales_ = 0;  ///< of a query
  std::uint64_t identity_;
};

}  // namespace

std::unique_ptr<PageCodec> make_parts_codec(std::span<const CodePart> parts, codec::PageSide side, Isa isa) {
  return std::make_unique<PartsCodec>(parts, make_parts(parts, side, isa));
}

}  // namespace kvant::cache
