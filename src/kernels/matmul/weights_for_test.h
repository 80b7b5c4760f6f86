#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "base/checked.h"
#include "base/half.h"
#include "base/random.h"
#include "gguf/blocks.h"
#include "kernels/matmul/matmul.h"

/// Random weights for the tests and benchmarks of this folder.
namespace kvant::kernels {

/// Bytes whose last one is the last of a page that an inaccessible page follows: reading past the end is a fault.
/// The start is as misaligned as the size makes it.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t size)
      : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))), size_(size), mapped_(round_up(size, page_) + page_) {
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    KVANT_CHECK(p != MAP_FAILED, ErrorCode::out_of_memory, "cannot map {} bytes", mapped_);
    base_ = static_cast<std::byte*>(p);
    KVANT_CHECK(mprotect(base_ + mapped_ - page_, page_, PROT_NONE) == 0, ErrorCode::io, "cannot protect a page");
  }
  ~GuardedBytes() { munmap(base_, mapped_); }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  std::byte* data() const noexcept { return base_ + mapped_ - page_ - size_; }
  std::size_t size() const noexcept { return size_; }

 private:
  std::size_t page_, size_, mapped_;
  std::byte* base_ = nullptr;
};

/// Overwrites the scales of a block, random bytes otherwise, by moderate ones.
inline void set_scales(gguf::TensorType type, std::byte* block, Random& random) {
  const auto put = [&](std::size_t at, double value) {
    const F16 half = to_f16(static_cast<float>(value));
    std::memcpy(block + at, &half, sizeof half);
  };
  const double d = (0.5 + random.uniform()) * 0.01 * (random.below(2) == 0 ? 1 : -1);
  const double m = (random.uniform() - 0.5) * 0.1;
  using T = gguf::TensorType;
  switch (type) {
    case T::q4_1:
    case T::q5_1:
    case T::q4_k:
    case T::q5_k:
      put(0, d);
      return put(2, m);
    case T::q2_k:
      put(80, d);
      return put(82, m);
    case T::q3_k:
      return put(108, d);
    case T::q6_k:
      return put(208, d);
    default:
      return put(0, d);
  }
}

/// Fills rows of a weight type with random values.
inline void fill_weights(gguf::TensorType type, std::size_t values, std::uint64_t seed, std::byte* out) {
  Random random(seed);
  const gguf::TypeInfo& info = gguf::info(type);
  if (info.block_values == 1) {
    std::vector<float> v(values);
    for (float& x : v) x = static_cast<float>(random.normal());
    return gguf::quantize(type, v, out);
  }
  const std::size_t bytes = gguf::row_bytes(type, values);
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<std::byte>(random.next() >> 56);
  for (std::size_t at = 0; at < bytes; at += info.block_bytes) set_scales(type, out + at, random);
}

inline std::vector<float> random_values(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> v(count);
  for (float& x : v) x = static_cast<float>(random.normal());
  return v;
}

inline std::vector<float> decoded(const WeightView& w) {
  std::vector<float> v(w.rows * w.cols);
  for (std::size_t r = 0; r < w.rows; ++r) decode_row(w, r, v.data() + r * w.cols);
  return v;
}

/// Column counts that a type permits.
inline std::vector<std::size_t> columns_for(gguf::TensorType type) {
  switch (gguf::info(type).block_values) {
    case 1:
      return {1, 8, 64, 172, 256, 515};
    case gguf::kBlock:
      return {32, 64, 96, 256, 288, 512, 544, 1536};
    default:
      return {256, 512, 1536};
  }
}

inline std::vector<gguf::TensorType> weight_types() {
  std::vector<gguf::TensorType> types;
  for (const gguf::TypeInfo& i : gguf::all_types()) {
    if (gguf::is_weight_type(i.type)) types.push_back(i.type);
  }
  return types;
}

/// Unit roundoff of f32.
inline constexpr double kEpsilon = 0x1p-24;

}  // namespace kvant::kernels
