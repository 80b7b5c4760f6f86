#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "base/thread_pool.h"
#include "base/view.h"
#include "cache/batch.h"
#include "cache/constants.h"
#include "codec/spec.h"
#include "kernels/rope/rope.h"

namespace kvant::cache {

/// Sizes of a cache and how it stores.
struct CacheConfig {
  int layers = 0;
  int heads = 0;  ///< query heads, a multiple of kv_heads
  int kv_heads = 0;
  std::size_t head_dim = 0;
  std::size_t rope_pairs = 0;  ///< pairs that RoPE rotates, <= head_dim / 2
  float score_scale = 0;       ///< logit = score_scale * q.k; >= 0, 0 means 1 / sqrt(head_dim)
  std::size_t capacity = 0;    ///< the most tokens of one sequence
  int sequences = 1;
  /// Tokens that all sequences together may hold, rounded up to whole blocks (KvCache::kBlockTokens); what sequences
  /// share counts once. 0: as many as if each had its capacity.
  std::size_t pool_tokens = 0;
  codec::CacheSpec k, v;
  kernels::RopeFrequencies rope = {};          ///< of rope_pairs pairs; needed where keys have an anchor
  std::vector<LayerConstants> constants = {};  ///< of each layer, or none
  /// Names the model whose keys and values these are, for saved caches: those of another are refused. 0: not known.
  std::uint64_t model = 0;

  /// Blocks of the pool.
  std::size_t blocks() const noexcept;
};

/// Bytes as allocated, and what they mean per stored value (docs/formats.md, section 5).
struct CacheUsage {
  std::size_t k_bytes = 0, v_bytes = 0;  ///< allocated for all tokens that the pool can hold
  double k_bpv = 0, v_bpv = 0;           ///< 8 * bytes / (tokens * layers * kv_heads * head_dim)
  std::size_t workspace_bytes = 0;       ///< scratch memory, not part of bytes()
  std::size_t constant_bytes = 0;        ///< anchors, scales and tables, not part of bytes()
  std::size_t bytes() const { return k_bytes + v_bytes; }
};

/// The one seam between the transformer and how keys and values are stored. For each forward pass and layer: append,
/// then attend. Results do not depend on the number of threads.
///
/// Sequences take their memory from one pool, in blocks of 64 tokens (of all layers, KV heads, K and V), as they grow.
/// Sequences that begin alike can share blocks (fork): one that writes into a block that others have too gets a copy of
/// its own first, so no sequence notices another. Which blocks a sequence has does not change its results.
class KvCache {
 public:
  static constexpr std::size_t kBlockTokens = 64;  ///< tokens of a sequence that lie in one block

  /// Throws out_of_memory naming the bytes asked for and those available; invalid_argument on impossible sizes.
  KvCache(const CacheConfig& config, ThreadPool& pool, Isa isa);
  ~KvCache();
  KvCache(KvCache&&) noexcept;
  KvCache& operator=(KvCache&&) noexcept;

  /// Stores the batch's keys and values.
  /// k  [rows, kv_heads * head_dim] f32 before RoPE: the cache rotates by batch.rope, since what it may take out of a
  ///    key is a constant of the frame before RoPE
  /// v  [rows, kv_heads * head_dim] f32
  /// Throws invalid_argument when a segment does not start at its sequence's length or exceeds the capacity;
  /// out_of_memory, naming both, when it needs more blocks than are free. Then nothing is stored. Throws format for a
  /// number that cannot be stored; truncate() to length() undoes what was.
  void append(int layer, const Batch& batch, MatView<const float> k, MatView<const float> v);

  /// Causal attention of the batch's queries over what their sequences hold, the batch's own tokens included.
  /// q    [rows, heads * head_dim] f32 after RoPE; query head h uses KV head h / (heads / kv_heads)
  /// out  [rows, heads * head_dim] f32, overwritten
  void attend(int layer, const Batch& batch, MatView<const float> q, MatView<float> out);

  /// Tokens that every layer of the sequence holds.
  std::size_t length(int sequence) const;
  /// Forgets all tokens of the sequence from position `length` on and gives back the blocks that no other has.
  void truncate(int sequence, std::size_t length);
  /// Sequence `to`, whatever it held, becomes the first `length` tokens of `from` and shares their blocks, a partly
  /// filled last one included: no block is taken before one of them writes. It goes on as `from` would after
  /// truncate(from, length). Throws invalid_argument when `from` holds fewer.
  void fork(int from, int to, std::size_t length);

  /// Of the pool.
  std::size_t blocks() const noexcept;
  std::size_t free_blocks() const noexcept;
  /// Free blocks that appending to the sequence up to `length` tokens would take, the copy of a shared last block
  /// included.
  std::size_t blocks_needed(int sequence, std::size_t length) const;

  /// Writes all sequences to a file, whole or not at all: types, sizes, and the stored bytes as they are, but nothing
  /// of what else is in their blocks. Throws io.
  void save(const std::filesystem::path& path) const;
  /// Writes one sequence: the file of a cache that has no other.
  void save(const std::filesystem::path& path, int sequence) const;
  /// Takes the sequences of a saved cache instead of those here, bit for bit; what they shared is stored apart.
  /// Capacities and pools may differ. Throws io; format or unsupported for a damaged file; invalid_argument, naming the
  /// field and both values, for one of another type, size, model or plan; out_of_memory, naming both, when it needs
  /// more blocks than there are. Then this cache is as it was.
  void load(const std::filesystem::path& path);
  /// The same of a file of one sequence, which becomes `sequence`; others stay as they are.
  void load(const std::filesystem::path& path, int sequence);
  /// The same from files in memory; `name` is for errors.
  void load(std::span<const std::byte> bytes, const std::string& name);
  void load(std::span<const std::byte> bytes, const std::string& name, int sequence);

  const CacheConfig& config() const noexcept;
  CacheUsage usage() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// What a cache would use, without its memory: rounding to pages of the kernel and the workspace are not counted.
CacheUsage planned_usage(const CacheConfig& config, Isa isa);

/// The most tokens (whole blocks) of a pool with which the cache takes at most so many bytes, as planned_usage counts
/// them; 0 when not even one block fits.
std::size_t pool_tokens_within(const CacheConfig& config, std::size_t bytes, Isa isa);

}  // namespace kvant::cache
