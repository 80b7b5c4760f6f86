#pragma once
#include <cstddef>
#include <vector>

#include "cache/page.h"
#include "codec/spec.h"
#include "kernels/attention/attention.h"
#include "kernels/encode/encode.h"
#include "kernels/fwht/fwht.h"

namespace kvant::cache {

/// The keys or the values of a cache: how they are stored, the kernels for it, and the pages of each layer.
struct Side {
  codec::CacheSpec spec;
  std::size_t head_dim;
  std::size_t dims;                     ///< head_dim rounded up to whole blocks; the rest is zeros
  kernels::FwhtFunction rotate;         ///< null where heads are stored as they are
  kernels::EncodeFunction encode;       ///< one vector of `dims` values
  const kernels::TypeKernels* kernels;  ///< score, mix and decode
  std::vector<PageStore> layers;

  /// Rotates a head where this side is stored rotated.
  void transform(float* x) const noexcept {
    if (rotate != nullptr) kernels::rotate_head(rotate, x, head_dim);
  }
};

}  // namespace kvant::cache
