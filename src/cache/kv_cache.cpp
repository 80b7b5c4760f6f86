#include "cache/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "cache/attend.h"
#include "cache/memory.h"
#include "cache/side.h"
#include "cache/state_file.h"

namespace kvant::cache {
namespace {

constexpr std::size_t kMaxStoredDims = 2 * kMaxHeadDim;  ///< a head padded in groups

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
  if (!c.rope.theta.empty() && c.rope.theta.size() != c.rope_pairs) {
    fail(kWrong, "cache: {} RoPE frequencies, expected {}", c.rope.theta.size(), c.rope_pairs);
  }
  if (c.capacity < 1 || c.capacity > std::numeric_limits<std::uint32_t>::max()) {
    fail(kWrong, "cache: capacity of {} tokens, expected 1 to {}", c.capacity,
         std::numeric_limits<std::uint32_t>::max());
  }
}

void check_constants(const CacheConfig& c) {
  constexpr ErrorCode kWrong = ErrorCode::invalid_argument;
  if (c.constants.empty()) return;
  if (c.constants.size() != static_cast<std::size_t>(c.layers)) {
    fail(kWrong, "cache: constants of {} layers, expected {}", c.constants.size(), c.layers);
  }
  const auto heads = static_cast<std::size_t>(c.kv_heads);
  for (std::size_t layer = 0; layer < c.constants.size(); ++layer) {
    const LayerConstants& of = c.constants[layer];
    const auto expect = [&](const char* name, const std::vector<float>& x, std::size_t size) {
      if (!x.empty() && x.size() != heads * size) {
        fail(kWrong, "cache: {} of layer {}: {} values, expected {}", name, layer, x.size(), heads * size);
      }
    };
    expect("key anchor", of.k_anchor, c.head_dim);
    expect("mean of the keys", of.k_static, c.head_dim);
    expect("value anchor", of.v_anchor, c.head_dim);
    expect("metric of the values", of.v_metric, c.head_dim * c.head_dim);
    expect("energies of the keys", of.k_energy, c.rope_pairs);
    expect("energies of the queries", of.q_energy, c.rope_pairs);
    const bool anchor = c.k.anchor == codec::Anchor::bias || c.k.anchor == codec::Anchor::mean;
    if (anchor && !of.k_anchor.empty() && c.rope.theta.size() != c.rope_pairs) {
      fail(kWrong, "cache: keys with an anchor, but 0 RoPE frequencies, expected {}", c.rope_pairs);
    }
  }
}

/// Refuses a cache larger than the memory.
void check_memory(const CacheConfig& c, double bytes) {
  const auto available = static_cast<double>(available_memory());
  if (bytes <= available) return;
  fail(ErrorCode::out_of_memory, "cache of {}{} tokens needs {:.1f} GiB, {:.1f} GiB are available",
       c.sequences == 1 ? "" : fmt::format("{} x ", c.sequences), c.capacity, bytes * 0x1p-30, available * 0x1p-30);
}

/// Takes the first line off a text.
std::string_view take_line(std::string_view& text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(text.size(), line.size() + 1));
  return line;
}

/// Refuses a saved cache of another description than that of the one that takes it, naming the first line that differs.
void check_description(const std::string& path, std::string_view saved, std::string_view expected) {
  if (saved == expected) return;
  std::string_view a, b;
  do {
    a = take_line(saved);
    b = take_line(expected);
  } while (a == b && !(saved.empty() && expected.empty()));
  fail(ErrorCode::invalid_argument, "{}: saved with {}, this cache has {}", path, printable(a), b);
}

CacheUsage usage_of(const CacheConfig& c, std::size_t k_bytes, std::size_t v_bytes) {
  const double values =
      static_cast<double>(c.capacity) * c.sequences * c.layers * c.kv_heads * static_cast<double>(c.head_dim);
  CacheUsage usage;
  usage.k_bytes = k_bytes;
  usage.v_bytes = v_bytes;
  usage.k_bpv = 8 * static_cast<double>(k_bytes) / values;
  usage.v_bpv = 8 * static_cast<double>(v_bytes) / values;
  return usage;
}

CacheConfig with_defaults(CacheConfig c) {
  check(c);
  check_constants(c);
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

  /// New tokens of a KV head that lie in one page.
  struct StoreTask {
    const Side* side;
    const Segment* segment;
    std::size_t kv_head, first, last;  ///< tokens of the segment
  };
  std::vector<StoreTask> tasks;  ///< of the current append

  Impl(const CacheConfig& c, ThreadPool& p, Isa isa)
      : config(with_defaults(c)),
        pool(&p),
        k(config, codec::PageSide::key, isa),
        v(config, codec::PageSide::value, isa),
        attend(allocate(), k, v, p, kernels::attention(isa), static_cast<std::size_t>(c.sequences), c.capacity),
        lengths(static_cast<std::size_t>(c.layers) * static_cast<std::size_t>(c.sequences)),
        seen(static_cast<std::size_t>(c.sequences)) {}

  /// Gives both sides their memory, which comes before that of the workspace; returns the workspace's shape.
  Attend::Shape allocate() {
    check_memory(config, k.planned_bytes() + v.planned_bytes());
    for (Side* side : {&k, &v}) {
      side->prepare(config);
      side->allocate();
    }
    return {static_cast<std::size_t>(config.kv_heads), static_cast<std::size_t>(config.heads / config.kv_heads),
            config.head_dim, config.score_scale};
  }

  std::size_t& length(int layer, int sequence) {
    return lengths[static_cast<std::size_t>(layer) * seen.size() + static_cast<std::size_t>(sequence)];
  }

  std::string description() const;
  void check_batch(int layer, const Batch& batch);
  template <class T>
  void check_matrix(const char* name, const Batch& batch, const MatView<T>& m, int heads) const;
  void store(std::size_t layer, const Batch& batch, const MatView<const float>& keys,
             const MatView<const float>& values);
  void store(std::size_t layer, const Batch& batch, const MatView<const float>& x, const StoreTask& task) const;
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

void KvCache::Impl::store(std::size_t layer, const Batch& batch, const MatView<const float>& x,
                          const StoreTask& task) const {
  const Side& side = *task.side;
  const Segment& s = *task.segment;
  const std::size_t dims = config.head_dim;
  alignas(64) float scratch[kMaxStoredDims];
  for (std::size_t i = task.first; i < task.last; ++i) {
    const std::size_t row = s.first_row + i;
    const float* vector = x.row(row).data() + task.kv_head * dims;
    if (side.store(layer, static_cast<std::size_t>(s.sequence), task.kv_head, s.position + i, s.position + s.count,
                   vector, batch.rope + row * config.rope_pairs * 2, scratch)) {
      continue;
    }
    fail(ErrorCode::format, "{} of layer {}, KV head {}, position {}: NaN or more than {} can hold (magnitude {})",
         &side == &k ? "keys" : "values", layer, task.kv_head, s.position + i,
         codec::to_string(side.spec(), side.side()), side.head(layer, task.kv_head).codec->largest_storable());
  }
}

/// Stores a batch, page by page. What takes longest, the values, comes first.
void KvCache::Impl::store(std::size_t layer, const Batch& batch, const MatView<const float>& keys,
                          const MatView<const float>& values) {
  tasks.clear();
  for (Side* side : {&v, &k}) {
    if (side->window() != nullptr) side->window()->begin(layer, batch);
    for (const Segment& s : batch.segments) {
      for (std::size_t first = 0; first < s.count;) {
        const std::size_t last = std::min(s.count, first + kPageTokens - (s.position + first) % kPageTokens);
        for (std::size_t h = 0; h < static_cast<std::size_t>(config.kv_heads); ++h) {
          tasks.push_back({side, &s, h, first, last});
        }
        first = last;
      }
    }
  }
  // Tasks alternate between the sides, so that every thread's share of consecutive ones has both.
  const std::size_t half = tasks.size() / 2;
  pool->run(tasks.size(), [&](std::size_t i, int) {
    const StoreTask& task = tasks[i / 2 + (i % 2 == 0 ? 0 : half)];
    store(layer, batch, task.side == &k ? keys : values, task);
  });
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
  m.store(static_cast<std::size_t>(layer), batch, k, v);
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
  m.attend(static_cast<std::size_t>(layer), batch, q, out);
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
    for (Side* side : {&impl_->k, &impl_->v}) {
      if (side->window() == nullptr) continue;
      side->window()->truncate(static_cast<std::size_t>(layer), static_cast<std::size_t>(sequence), held);
    }
  }
}

/// What must agree between a saved cache and the one that takes it, a line for each.
std::string KvCache::Impl::description() const {
  const CacheConfig& c = config;
  const auto type = [](codec::CacheSpec spec, codec::PageSide side) {  // where its files lie is of no matter
    spec.plan.clear();
    spec.permutations.clear();
    return codec::to_string(spec, side);
  };
  std::vector<double> rope = c.rope.theta;
  rope.push_back(c.rope.magnitude);
  return fmt::format(
      "keys {}\nvalues {}\nlayers {}\nsequences {}\nKV heads {}\nhead_dim {}\nRoPE pairs {}\nRoPE angles {:016x}\n"
      "constants of the keys {:016x}\nconstants of the values {:016x}\n",
      type(c.k, codec::PageSide::key), type(c.v, codec::PageSide::value), c.layers, c.sequences, c.kv_heads, c.head_dim,
      c.rope_pairs, hash_bytes(std::as_bytes(std::span(rope))), k.identity(), v.identity());
}

void KvCache::save(const std::filesystem::path& path) const {
  StateWriter file(path);
  const std::string text = impl_->description();
  file.section(std::as_bytes(std::span(text)));
  file.section(std::as_bytes(std::span(impl_->lengths)));
  for (Side* side : {&impl_->k, &impl_->v}) {
    for (const auto part : side->contents(impl_->lengths)) file.section(part);
  }
  file.finish();
}

void KvCache::load(const std::filesystem::path& path) {
  const MappedFile file(path);
  load(file.bytes(), path.string());
}

void KvCache::load(std::span<const std::byte> bytes, const std::string& name) {
  Impl& m = *impl_;
  StateReader file(bytes, name);
  const auto text = file.section("description");
  check_description(name, {reinterpret_cast<const char*>(text.data()), text.size()}, m.description());
  std::vector<std::size_t> lengths(m.lengths.size());
  const auto saved = file.section("lengths", lengths.size() * sizeof(std::size_t));
  std::memcpy(lengths.data(), saved.data(), saved.size());
  for (const std::size_t length : lengths) {
    KVANT_CHECK(length <= m.config.capacity, ErrorCode::invalid_argument,
                "{}: a sequence of {} tokens, the capacity is {}", name, length, m.config.capacity);
  }
  // Everything is checked before anything changes.
  std::vector<std::pair<std::span<std::byte>, std::span<const std::byte>>> copies;
  for (Side* side : {&m.k, &m.v}) {
    const char* what = side == &m.k ? "keys" : "values";
    for (const auto part : side->contents(lengths)) copies.emplace_back(part, file.section(what, part.size()));
  }
  file.finish();
  for (const auto& [to, from] : copies) std::memcpy(to.data(), from.data(), from.size());
  m.lengths = std::move(lengths);
}

const CacheConfig& KvCache::config() const noexcept { return impl_->config; }

CacheUsage KvCache::usage() const {
  const Impl& m = *impl_;
  CacheUsage usage = usage_of(m.config, m.k.bytes(), m.v.bytes());
  usage.constant_bytes = m.k.constant_bytes() + m.v.constant_bytes();
  usage.workspace_bytes = m.attend.workspace_bytes();
  for (const Side* side : {&m.k, &m.v}) {
    if (side->window() != nullptr) usage.workspace_bytes += side->window()->workspace_bytes();
  }
  return usage;
}

CacheUsage planned_usage(const CacheConfig& config, Isa isa) {
  check(config);
  Side k(config, codec::PageSide::key, isa), v(config, codec::PageSide::value, isa);
  CacheUsage usage =
      usage_of(config, static_cast<std::size_t>(k.planned_bytes()), static_cast<std::size_t>(v.planned_bytes()));
  for (Side* side : {&k, &v}) {
    side->prepare(config);
    usage.constant_bytes += side->constant_bytes();
  }
  return usage;
}

}  // namespace kvant::cache
