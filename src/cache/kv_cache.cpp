#include "cache/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cache/attend.h"
#include "cache/memory.h"
#include "cache/side.h"
#include "kernels/rope/rope.h"

namespace kvant::cache {
namespace {

constexpr std::size_t kMaxHeadDim = 1024;
constexpr std::size_t kAppendRows = 16;  ///< rows that a thread stores at a time

void check(const CacheConfig& c) {
  constexpr ErrorCode kWrong = ErrorCode::invalid_argument;
  if (c.layers < 1 || c.sequences < 1 || c.kv_heads < 1) {
    fail(kWrong, "cache: {} layers, {} sequences and {} KV heads, expected at least 1 of each", c.layers, c.sequences,
         c.kv_heads);
  }
  if (c.heads < 1 || c.heads % c.kv_heads != 0) {
    fail(kWrong, "cache: {} heads, expected a multiple of the {} KV heads", c.heads, c.kv_heads);
  }
  if (c.head_dim < 1 || c.head_dim > kMaxHeadDim) {
    fail(kWrong, "cache: head_dim {}, expected 1 to {}", c.head_dim, kMaxHeadDim);
  }
  if ((c.k.rotated || c.v.rotated) && c.head_dim % 2 != 0) {
    fail(kWrong, "cache: head_dim {}, expected an even number for a rotated type", c.head_dim);
  }
  if (c.rope_pairs > c.head_dim / 2) {
    fail(kWrong, "cache: {} RoPE pairs, expected at most {} for head_dim {}", c.rope_pairs, c.head_dim / 2, c.head_dim);
  }
  if (c.capacity < 1 || c.capacity > std::numeric_limits<std::uint32_t>::max()) {
    fail(kWrong, "cache: capacity of {} tokens, expected 1 to {}", c.capacity,
         std::numeric_limits<std::uint32_t>::max());
  }
}

PageGrid grid_of(const CacheConfig& c, const codec::CacheSpec& spec) {
  return {static_cast<std::size_t>(c.sequences), static_cast<std::size_t>(c.kv_heads),
          (c.capacity + kPageTokens - 1) / kPageTokens, codec::vector_bytes(spec, c.head_dim)};
}

/// Refuses a cache larger than the memory; in double, which no count can overflow.
void check_memory(const CacheConfig& c) {
  double bytes = 0;
  for (const codec::CacheSpec& spec : {c.k, c.v}) {
    const PageGrid grid = grid_of(c, spec);
    bytes += static_cast<double>(c.layers) * static_cast<double>(grid.sequences * grid.kv_heads) *
             static_cast<double>(grid.pages) * static_cast<double>(grid.page_bytes());
  }
  const auto available = static_cast<double>(available_memory());
  if (bytes <= available) return;
  fail(ErrorCode::out_of_memory, "cache of {}{} tokens needs {:.1f} GiB, {:.1f} GiB are available",
       c.sequences == 1 ? "" : fmt::format("{} x ", c.sequences), c.capacity, bytes * 0x1p-30, available * 0x1p-30);
}

Side make_side(const CacheConfig& c, const codec::CacheSpec& spec, Isa isa) {
  const std::size_t dims = round_up(c.head_dim, gguf::kBlock);
  Side side{spec,
            c.head_dim,
            dims,
            spec.rotated ? kernels::fwht(isa) : nullptr,
            kernels::encoders(isa).of(spec.type),
            &kernels::attention(isa).of(spec.type),
            {}};
  side.layers.reserve(static_cast<std::size_t>(c.layers));
  for (int i = 0; i < c.layers; ++i) side.layers.emplace_back(grid_of(c, spec));
  return side;
}

CacheConfig with_defaults(CacheConfig c) {
  check(c);
  check_memory(c);
  if (c.score_scale == 0) c.score_scale = static_cast<float>(1 / std::sqrt(static_cast<double>(c.head_dim)));
  return c;
}

}  // namespace

struct KvCache::Impl {
  CacheConfig config;
  ThreadPool* pool;
  Side k, v;
  Attend attend;
  std::vector<std::size_t> lengths;  ///< [layers][sequences]
  std::vector<char> seen;            ///< [sequences] of the batch being checked

  Impl(const CacheConfig& c, ThreadPool& p, Isa isa)
      : config(with_defaults(c)),
        pool(&p),
        k(make_side(config, config.k, isa)),
        v(make_side(config, config.v, isa)),
        attend({static_cast<std::size_t>(c.kv_heads), static_cast<std::size_t>(c.heads / c.kv_heads), c.head_dim,
                config.score_scale},
               p, kernels::attention(isa), static_cast<std::size_t>(c.sequences), c.capacity),
        lengths(static_cast<std::size_t>(c.layers) * static_cast<std::size_t>(c.sequences)),
        seen(static_cast<std::size_t>(c.sequences)) {}

  std::size_t& length(int layer, int sequence) {
    return lengths[static_cast<std::size_t>(layer) * seen.size() + static_cast<std::size_t>(sequence)];
  }
  std::size_t kv_width() const { return static_cast<std::size_t>(config.kv_heads) * config.head_dim; }

  void check_batch(int layer, const Batch& batch);
  template <class T>
  void check_matrix(const char* name, const Batch& batch, const MatView<T>& m, int heads) const;
  void store(const Side& side, int layer, const Batch& batch, const MatView<const float>& x, std::size_t first,
             std::size_t last) const;
};

void KvCache::Impl::check_batch(int layer, const Batch& batch) {
  constexpr ErrorCode kWrong = ErrorCode::invalid_argument;
  if (layer < 0 || layer >= config.layers) fail(kWrong, "cache: layer {}, expected 0 to {}", layer, config.layers - 1);
  std::fill(seen.begin(), seen.end(), 0);
  std::size_t rows = 0;
  for (const Segment& s : batch.segments) {
    if (s.sequence < 0 || s.sequence >= config.sequences) {
      fail(kWrong, "cache: sequence {}, expected 0 to {}", s.sequence, config.sequences - 1);
    }
    if (seen[static_cast<std::size_t>(s.sequence)]++ != 0) {
      fail(kWrong, "cache: sequence {} appears twice in a batch", s.sequence);
    }
    if (s.count < 1 || s.first_row > batch.rows || s.count > batch.rows - s.first_row) {
      fail(kWrong, "cache: sequence {} has rows {} to {} of a batch of {}", s.sequence, s.first_row,
           s.first_row + s.count, batch.rows);
    }
    if (s.position > config.capacity || s.count > config.capacity - s.position) {
      fail(kWrong, "cache: sequence {}: {} tokens after {}, its capacity is {}", s.sequence, s.count, s.position,
           config.capacity);
    }
    rows += s.count;
  }
  if (rows != batch.rows) fail(kWrong, "cache: segments of {} rows in a batch of {}", rows, batch.rows);
}

template <class T>
void KvCache::Impl::check_matrix(const char* name, const Batch& batch, const MatView<T>& m, int heads) const {
  const std::size_t cols = static_cast<std::size_t>(heads) * config.head_dim;
  if (m.rows != batch.rows || m.cols != cols) {
    fail(ErrorCode::invalid_argument, "cache: {} of [{},{}], expected [{},{}]", name, m.rows, m.cols, batch.rows, cols);
  }
}

/// Stores batch rows [first, last) of x as keys or values.
void KvCache::Impl::store(const Side& side, int layer, const Batch& batch, const MatView<const float>& x,
                          std::size_t first, std::size_t last) const {
  const bool keys = &side == &k;
  const PageStore& pages = side.layers[static_cast<std::size_t>(layer)];
  alignas(64) float head[kMaxHeadDim];
  for (const Segment& s : batch.segments) {
    for (std::size_t row = std::max(first, s.first_row); row < std::min(last, s.first_row + s.count); ++row) {
      const std::size_t position = s.position + (row - s.first_row);
      for (std::size_t h = 0; h < static_cast<std::size_t>(config.kv_heads); ++h) {
        std::copy_n(x.row(row).data() + h * side.head_dim, side.head_dim, head);
        std::fill(head + side.head_dim, head + side.dims, 0.0F);
        if (keys) kernels::rope_apply(batch.rope + row * config.rope_pairs * 2, config.rope_pairs, head);
        side.transform(head);
        if (!side.encode(head, side.dims, pages.vector(static_cast<std::size_t>(s.sequence), h, position))) {
          fail(ErrorCode::format,
               "{} of layer {}, KV head {}, position {}: NaN or more than {} can hold (magnitude {})",
               keys ? "keys" : "values", layer, h, position, codec::to_string(side.spec),
               kernels::largest_storable(side.spec.type));
        }
      }
    }
  }
}

KvCache::KvCache(const CacheConfig& config, ThreadPool& pool, Isa isa)
    : impl_(std::make_unique<Impl>(config, pool, isa)) {}
KvCache::~KvCache() = default;
KvCache::KvCache(KvCache&&) noexcept = default;
KvCache& KvCache::operator=(KvCache&&) noexcept = default;

void KvCache::append(int layer, const Batch& batch, MatView<const float> k, MatView<const float> v) {
  Impl& m = *impl_;
  m.check_batch(layer, batch);
  m.check_matrix("k", batch, k, m.config.kv_heads);
  m.check_matrix("v", batch, v, m.config.kv_heads);
  KVANT_CHECK(batch.rope != nullptr || m.config.rope_pairs == 0, ErrorCode::invalid_argument,
              "cache: a batch without RoPE angles");
  for (const Segment& s : batch.segments) {
    KVANT_CHECK(s.position == m.length(layer, s.sequence), ErrorCode::invalid_argument,
                "cache: sequence {} continues at position {}, layer {} holds {} tokens", s.sequence, s.position, layer,
                m.length(layer, s.sequence));
  }
  m.pool->for_ranges(batch.rows, kAppendRows, [&](std::size_t first, std::size_t last, int) {
    m.store(m.k, layer, batch, k, first, last);
    m.store(m.v, layer, batch, v, first, last);
  });
  for (const Segment& s : batch.segments) m.length(layer, s.sequence) = s.position + s.count;
}

void KvCache::attend(int layer, const Batch& batch, MatView<const float> q, MatView<float> out) {
  Impl& m = *impl_;
  m.check_batch(layer, batch);
  m.check_matrix("q", batch, q, m.config.heads);
  m.check_matrix("out", batch, out, m.config.heads);
  for (const Segment& s : batch.segments) {
    KVANT_CHECK(s.position + s.count == m.length(layer, s.sequence), ErrorCode::invalid_argument,
                "cache: sequence {} asks at positions {} to {}, layer {} holds {} tokens", s.sequence, s.position,
                s.position + s.count - 1, layer, m.length(layer, s.sequence));
  }
  m.attend(m.k, m.v, static_cast<std::size_t>(layer), batch, q, out);
}

std::size_t KvCache::length(int sequence) const {
  KVANT_CHECK(sequence >= 0 && sequence < impl_->config.sequences, ErrorCode::invalid_argument,
              "cache: sequence {}, expected 0 to {}", sequence, impl_->config.sequences - 1);
  std::size_t length = impl_->length(0, sequence);
  for (int layer = 1; layer < impl_->config.layers; ++layer) length = std::min(length, impl_->length(layer, sequence));
  return length;
}

void KvCache::truncate(int sequence, std::size_t length) {
  KVANT_CHECK(sequence >= 0 && sequence < impl_->config.sequences, ErrorCode::invalid_argument,
              "cache: sequence {}, expected 0 to {}", sequence, impl_->config.sequences - 1);
  for (int layer = 0; layer < impl_->config.layers; ++layer) {
    std::size_t& held = impl_->length(layer, sequence);
    held = std::min(held, length);
  }
}

const CacheConfig& KvCache::config() const noexcept { return impl_->config; }

CacheUsage KvCache::usage() const {
  const CacheConfig& c = impl_->config;
  CacheUsage usage;
  for (const PageStore& layer : impl_->k.layers) usage.k_bytes += layer.bytes();
  for (const PageStore& layer : impl_->v.layers) usage.v_bytes += layer.bytes();
  const double values =
      static_cast<double>(c.capacity) * c.sequences * c.layers * static_cast<double>(impl_->kv_width());
  usage.k_bpv = 8 * static_cast<double>(usage.k_bytes) / values;
  usage.v_bpv = 8 * static_cast<double>(usage.v_bytes) / values;
  usage.workspace_bytes = impl_->attend.workspace_bytes();
  return usage;
}

}  // namespace kvant::cache
