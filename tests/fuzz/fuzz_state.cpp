#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/hash.h"
#include "cache/kv_cache.h"

// Loads arbitrary bytes as a saved sequence: as they are, and with the hashes made right, so that what lies behind them
// is reached. A sequence that is accepted is cut, forked and continued, and attended to. Anything but a result or a
// kvant::Error is a finding, and so is a block that does not come back.
namespace kvant::cache {
namespace {

constexpr std::size_t kWidth = 8;

CacheConfig make_config() {
  CacheConfig c;
  c.layers = c.heads = c.kv_heads = 1;
  c.head_dim = kWidth;
  c.rope_pairs = kWidth / 2;
  c.capacity = 70;
  c.sequences = 2;
  c.pool_tokens = 3 * KvCache::kBlockTokens;  // two of the sequence, and a copy of what the other shares
  c.k = codec::parse_cache_spec("lm2,sinks=1,recent=2");
  c.v = codec::parse_cache_spec("q4_0", codec::PageSide::value);
  return c;
}

/// Makes the hash of each section right, as far as sections follow each other.
void repair(std::vector<std::byte>& file) {
  for (std::size_t at = 16; at + 16 <= file.size();) {
    std::uint64_t size = 0;
    std::memcpy(&size, file.data() + at, sizeof size);
    if (size > file.size() - at - 16) return;
    const std::uint64_t hash = hash_bytes(std::span(file).subspan(at + 16, size));
    std::memcpy(file.data() + at + 8, &hash, sizeof hash);
    at += 16 + size;
  }
}

void load(KvCache& cache, std::span<const std::byte> file) {
  try {
    cache.load(file, "fuzz", 1);
  } catch (const Error&) {
    return;
  }
  const std::size_t capacity = cache.config().capacity, length = cache.length(1);
  if (length > capacity) std::abort();
  cache.truncate(1, std::min(length, capacity - 1));
  cache.fork(1, 0, length / 2);
  const Segment segments[] = {{0, 0, 1, cache.length(0)}, {1, 1, 1, cache.length(1)}};
  std::vector<float> x(2 * kWidth, 0.5F), out(2 * kWidth), angles(2 * kWidth, 1);
  const Batch batch{segments, 2, angles.data()};
  cache.append(0, batch, {x.data(), 2, kWidth}, {x.data(), 2, kWidth});
  cache.attend(0, batch, {x.data(), 2, kWidth}, {out.data(), 2, kWidth});
  for (const int sequence : {0, 1}) cache.truncate(sequence, 0);
  if (cache.free_blocks() != cache.blocks()) std::abort();
}

}  // namespace
}  // namespace kvant::cache

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace kvant::cache;
  static kvant::ThreadPool pool(1);
  static KvCache cache(make_config(), pool, kvant::Isa::scalar);
  const auto bytes = std::as_bytes(std::span(data, size));
  load(cache, bytes);
  std::vector<std::byte> repaired(bytes.begin(), bytes.end());
  repair(repaired);
  load(cache, repaired);
  return 0;
}
