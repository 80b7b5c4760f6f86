#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "cache/kv_cache.h"
#include "model/config.h"
#include "model/tap.h"
#include "model/weights.h"

namespace kvant::model {

using Token = std::int32_t;

/// New tokens of one sequence in a forward pass.
struct Input {
  int sequence = 0;
  std::span<const Token> tokens;
  /// Rows whose logits are wanted: the last `logits` tokens of this input (0: none).
  std::size_t logits = 1;
};

/// What every layer of a pass received: whence a pass over other caches can start that differs from some layer on only.
/// Memory: 4 rows * E * layers.
class Recording {
 public:
  Recording();
  ~Recording();
  Recording(Recording&&) noexcept;
  Recording& operator=(Recording&&) noexcept;

 private:
  friend class Transformer;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Seconds spent since the last reset, for reports.
struct Profile {
  double weights = 0;    ///< matrix products with weights
  double attention = 0;  ///< cache.append and cache.attend
  double other = 0;      ///< everything else
};

/// The forward pass of all supported models: embed, [norm, qkv, rope, append, attend, output, norm, feed-forward] per
/// layer, norm, logits. Holds no state of a sequence: that is the cache's. Written against the operations of
/// model/ops.h.
///
/// Memory beside weights and cache, as workspace_bytes() counts it, for chunks of n <= kMaxRows rows:
/// 4 n (2 E + 2 Q + 2 KV + 2 F + rotated channels) + 4 wanted rows * vocabulary + what the matrix products need.
class Transformer {
 public:
  /// config, weights and pool must outlive this object.
  Transformer(const ModelConfig& config, const Weights& weights, ThreadPool& pool, Isa isa,
              kernels::Precision precision);
  ~Transformer();

  /// Runs all inputs in one batch (each sequence at most once), in chunks of at most kMaxRows rows, and appends them to
  /// `cache`. Returns logits [sum of Input::logits, vocabulary] f32 in input order, valid until the next call.
  /// The pass replaces what `record` holds. Throws invalid_argument when a token is outside the vocabulary or the cache
  /// is full.
  MatView<const float> forward(cache::KvCache& cache, std::span<const Input> inputs, Recording* record = nullptr);

  /// The recorded pass from `layer` on, over a cache that stores what layers below read as the recorded one did:
  /// returns what forward() would, the same bits. Only layers from `layer` on are appended to `cache`, whose sequences
  /// must have come so far by replay from the same layer; length() does not count them. Throws invalid_argument when
  /// there is no such layer, what KvCache::append throws.
  MatView<const float> replay(cache::KvCache& cache, Recording& recording, int layer);

  /// The cache sizes that this model needs, f16 by default.
  cache::CacheConfig cache_config(std::size_t capacity, int sequences = 1) const;

  /// Shows the queries, keys and values of every layer and pass from now on to `tap`, which must outlive that; null:
  /// to nobody.
  void set_tap(Tap* tap) noexcept;

  const Profile& profile() const noexcept;
  void reset_profile() noexcept;

  /// Bytes of activations and scratch held at present.
  std::size_t workspace_bytes() const noexcept;

  static constexpr std::size_t kMaxRows = 512;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant::model
