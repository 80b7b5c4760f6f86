#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/aligned_buffer.h"
#include "base/cpu.h"
#include "codec/flex.h"
#include "codec/head_code.h"
#include "codec/spec.h"
#include "kernels/attention/attention.h"

namespace kvant::cache {

/// The queries of a tile in the forms that kernels read: f32, and whole numbers where keys are codes.
struct QueryRows {
  AlignedBuffer<float> f32;  ///< [rows][dims] in the stored basis
  AlignedBuffer<std::int8_t> values;
  AlignedBuffer<float> units;
  AlignedBuffer<std::int32_t> sums;

  /// Room for at least so many f32 and whole numbers, and as many units as sums.
  void reserve(std::size_t f32_count, std::size_t value_count, std::size_t scale_count) {
    const auto grow = []<class T>(AlignedBuffer<T>& buffer, std::size_t size) {
      if (buffer.size() < size) buffer = AlignedBuffer<T>(size);
    };
    grow(f32, f32_count);
    grow(values, value_count);
    grow(units, scale_count);
    grow(sums, scale_count);
  }
};

/// A page and the rows that attend to it. Rows are those of kernels/attention/attention.h.
struct PageCall {
  const std::byte* page;
  std::size_t rows, tokens;
  const kernels::Upcoming& next;
  float* scratch;  ///< [64][dims], for codecs that decode
};

/// How the vectors of one side of a cache lie in pages of 64 tokens, and the kernels over such pages. A vector is
/// rotated from its head's basis into the one in which it is stored; queries and outputs go the same way.
class PageCodec {
 public:
  virtual ~PageCodec() = default;

  /// Values of a stored vector: head_dim and what pads it, which is zero.
  std::size_t dims() const noexcept { return dims_; }
  std::size_t page_bytes() const noexcept { return page_bytes_; }
  /// Magnitudes above this are refused.
  virtual float largest_storable() const = 0;

  /// Rotates a vector of dims() values in place; what lies behind the first head_dim is overwritten.
  virtual void rotate(float* x) const noexcept = 0;
  /// Undoes rotate().
  virtual void unrotate(float* x) const noexcept = 0;
  /// Rotates x, which is as for rotate(), and stores it as a token of a page. Several threads may store into different
  /// pages. False when a value is NaN or too large.
  virtual bool store(float* x, std::byte* page, std::size_t token) const = 0;

  /// Room for `rows` queries, beside what others have reserved.
  virtual void reserve(QueryRows& q, std::size_t rows) const = 0;
  /// Brings rows of q.f32, rotated, into the form that score() reads.
  virtual void prepare(QueryRows& q, std::size_t rows) const noexcept = 0;
  /// logits [rows][64] = q . keys; undefined from call.tokens on.
  virtual void score(const PageCall& call, const QueryRows& q, float* logits) const noexcept = 0;
  /// out [rows][dims] += weights [rows][64] . values
  virtual void mix(const PageCall& call, const float* weights, float* out) const noexcept = 0;
  /// The same codec with codes chosen in a metric [head_dim][head_dim] (codec/shaping.h); only of codes, else null.
  virtual std::unique_ptr<PageCodec> shaped(std::span<const float>) const { return nullptr; }
  /// Bytes of tables that do not depend on the number of tokens.
  virtual std::size_t constant_bytes() const noexcept = 0;
  /// A hash of what stored bytes depend on beside the type's name.
  virtual std::uint64_t identity() const noexcept { return 0; }

 protected:
  PageCodec(std::size_t dims, std::size_t page_bytes) : dims_(dims), page_bytes_(page_bytes) {}

 private:
  std::size_t dims_, page_bytes_;
};

/// Vectors in GGUF blocks, as they are or rotated in blocks of 64.
std::unique_ptr<PageCodec> make_block_codec(gguf::TensorType type, bool rotated, std::size_t head_dim, Isa isa);
/// Codes of lm or uni in bit planes. Throws invalid_argument when the head cannot be cut into groups of a power of two
/// from 8 to 256.
std::unique_ptr<PageCodec> make_plane_codec(const codec::CacheSpec& spec, codec::PageSide side, std::size_t head_dim,
                                            Isa isa);
/// Codes of lm or uni for each part of the vectors, the parts' pages one after the other; parts of 0 bits are not
/// stored and count as zeros. Throws invalid_argument when a part has more than 512 dims.
std::unique_ptr<PageCodec> make_parts_codec(std::span<const codec::CodePart> parts, codec::PageSide side, Isa isa);
/// Keys in a flex layout.
std::unique_ptr<PageCodec> make_flex_codec(std::shared_ptr<const codec::FlexCodec> codec,
                                           const codec::FlexChannels& channels, Isa isa);

}  // namespace kvant::cache
