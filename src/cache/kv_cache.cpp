#include "cache/kv_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/hash.h"
#include "base/mapped_file.h"
#include "cache/attend.h"
#include "cache/block_table.h"
#include "cache/memory.h"
#include "cache/side.h"
#include "cache/state_file.h"

namespace kvant::cache {
namespace {

static_assert(KvCache::kBlockTokens == kPageTokens);
constexpr std::size_t kMaxStoredDims = 2 * kMaxHeadDim;  ///< a head padded in groups
constexpr std::size_t kMostPoolTokens = std::numeric_limits<std::uint32_t>::max() * kPageTokens;

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
  if (!(c.score_scale >= 0)) fail(kWrong, "cache: score scale {}, expected at least 0", c.score_scale);
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
  if (c.pool_tokens > kMostPoolTokens) {
    fail(kWrong, "cache: pool of {} tokens, expected at most {}", c.pool_tokens, kMostPoolTokens);
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
  const bool single = c.sequences == 1 || c.pool_tokens > 0;
  fail(ErrorCode::out_of_memory, "cache of {}{} tokens needs {:.1f} GiB, {:.1f} GiB are available",
       single ? "" : fmt::format("{} x ", c.sequences), c.pool_tokens > 0 ? c.pool_tokens : c.capacity, bytes * 0x1p-30,
       available * 0x1p-30);
}

/// Takes the first line off a text.
std::string_view take_line(std::string_view& text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(text.size(), line.size() + 1));
  return line;
}

/// Refuses a saved cache of another description than that of the one that takes it, naming the first line that differs.
/// A file of before there was the last line, the model's, may lack it.
void check_description(const std::string& path, std::string_view saved, std::string_view expected) {
  if (saved == expected || saved == expected.substr(0, expected.find("model "))) return;
  std::string_view a, b;
  do {
    a = take_line(saved);
    b = take_line(expected);
  } while (a == b && !(saved.empty() && expected.empty()));
  fail(ErrorCode::invalid_argument, "{}: saved with {}, expected {}", path, printable(a), b);
}

CacheUsage usage_of(const CacheConfig& c, std::size_t k_bytes, std::size_t v_bytes) {
  const double tokens =
      c.pool_tokens > 0 ? static_cast<double>(c.blocks() * kPageTokens) : static_cast<double>(c.capacity) * c.sequences;
  const double values = tokens * c.layers * c.kv_heads * static_cast<double>(c.head_dim);
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

std::size_t CacheConfig::blocks() const noexcept {
  return pool_tokens > 0 ? blocks_of(pool_tokens) : static_cast<std::size_t>(sequences) * blocks_of(capacity);
}

struct KvCache::Impl {
  CacheConfig config;
  ThreadPool* pool;
  Maps maps;
  Side k, v;
  BlockTable blocks;
  Attend attend;
  std::vector<std::size_t> lengths;  ///< [layers][sequences]
  std::vector<char> seen;            ///< [sequences] of the batch being checked

  /// New tokens of a KV head that lie in one page.
  struct StoreTask {
    const Side* side;
    const Segment* segment;
    std::size_t slot, kv_head;
    std::size_t first, last;  ///< tokens of the segment
  };
  std::vector<StoreTask> tasks;  ///< of the current append

  Impl(const CacheConfig& c, ThreadPool& p, Isa isa)
      : config(with_defaults(c)),
        pool(&p),
        maps(config.constants),
        k(config, codec::PageSide::key, isa),
        v(config, codec::PageSide::value, isa),
        blocks(allocate()),
        attend({static_cast<std::size_t>(c.kv_heads), static_cast<std::size_t>(c.heads / c.kv_heads), c.head_dim,
                config.score_scale},
               k, v, blocks, p, kernels::attention(isa), static_cast<std::size_t>(c.sequences), c.capacity),
        lengths(static_cast<std::size_t>(c.layers) * static_cast<std::size_t>(c.sequences)),
        seen(static_cast<std::size_t>(c.sequences)) {}

  /// Gives both sides their memory, which comes before that of the workspace; returns the table of its blocks.
  BlockTable allocate() {
    const std::size_t of_sequence = blocks_of(config.capacity);
    const double bytes = k.planned_bytes() + v.planned_bytes();
    check_memory(config, bytes);
    check_memory(config, bytes + sizeof(std::uint32_t) * static_cast<double>(of_sequence) * config.sequences);
    for (Side* side : {&k, &v}) {
      side->prepare(config, maps);
      side->allocate();
    }
    return {config.blocks(), static_cast<std::size_t>(config.sequences), of_sequence};
  }

  std::size_t& length(int layer, int sequence) {
    return lengths[static_cast<std::size_t>(layer) * seen.size() + static_cast<std::size_t>(sequence)];
  }

  std::string description(std::size_t sequences) const;
  std::size_t checked(int sequence) const;
  std::vector<std::size_t> all_sequences() const;
  std::vector<std::size_t> read_lengths(StateReader& file, const std::string& name, std::size_t sequences) const;
  void save(const std::filesystem::path& path, std::span<const std::size_t> sequences);
  void load(std::span<const std::byte> bytes, const std::string& name, std::span<const std::size_t> sequences);
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
    const NewToken to{layer,          task.kv_head, static_cast<std::size_t>(s.sequence),
                      s.position + i, task.slot,    s.position + s.count};
    if (side.store(to, vector, batch.rope + row * config.rope_pairs * 2, scratch)) continue;
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
        const std::size_t position = s.position + first;
        const std::size_t last = std::min(s.count, first + kPageTokens - position % kPageTokens);
        const std::size_t slot = blocks.slot(static_cast<std::size_t>(s.sequence), position / kPageTokens);
        for (std::size_t h = 0; h < static_cast<std::size_t>(config.kv_heads); ++h) {
          tasks.push_back({side, &s, slot, h, first, last});
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
  for (const BlockTable::Copy& copy : m.blocks.grow(batch.segments)) {
    for (Side* side : {&m.k, &m.v}) side->copy_block(copy);
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

std::size_t KvCache::Impl::checked(int sequence) const {
  KVANT_CHECK(sequence >= 0 && sequence < config.sequences, ErrorCode::invalid_argument,
              "cache: sequence {}, expected 0 to {}", sequence, config.sequences - 1);
  return static_cast<std::size_t>(sequence);
}

std::size_t KvCache::length(int sequence) const {
  const std::size_t s = impl_->checked(sequence);
  std::size_t length = impl_->lengths[s];
  for (std::size_t i = s; i < impl_->lengths.size(); i += impl_->seen.size()) {
    length = std::min(length, impl_->lengths[i]);
  }
  return length;
}

void KvCache::truncate(int sequence, std::size_t length) {
  Impl& m = *impl_;
  const std::size_t s = m.checked(sequence);
  std::size_t most = 0;
  for (int layer = 0; layer < m.config.layers; ++layer) {
    std::size_t& held = m.length(layer, sequence);
    held = std::min(held, length);
    most = std::max(most, held);
    for (Side* side : {&m.k, &m.v}) {
      if (side->window() != nullptr) side->window()->truncate(static_cast<std::size_t>(layer), s, held);
    }
  }
  m.blocks.truncate(s, blocks_of(most));
}

void KvCache::fork(int from, int to, std::size_t length) {
  Impl& m = *impl_;
  const std::size_t source = m.checked(from), target = m.checked(to);
  KVANT_CHECK(length <= this->length(from), ErrorCode::invalid_argument,
              "cache: fork of {} tokens of sequence {}, which holds {}", length, from, this->length(from));
  if (from == to) return truncate(to, length);
  m.blocks.share(source, target, blocks_of(length));
  for (int layer = 0; layer < m.config.layers; ++layer) {
    m.length(layer, to) = length;
    for (Side* side : {&m.k, &m.v}) {
      if (side->window() != nullptr) side->window()->fork(static_cast<std::size_t>(layer), source, target, length);
    }
  }
}

std::size_t KvCache::blocks() const noexcept { return impl_->blocks.slots(); }
std::size_t KvCache::free_blocks() const noexcept { return impl_->blocks.free_slots(); }

std::size_t KvCache::blocks_needed(int sequence, std::size_t length) const {
  const std::size_t held = this->length(sequence);
  if (length <= held) return 0;
  const Segment segment{sequence, 0, length - held, held};
  return impl_->blocks.needed({&segment, 1});
}

/// What must agree between a saved cache of so many sequences and what takes it, a line for each.
std::string KvCache::Impl::description(std::size_t sequences) const {
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
      "constants of the keys {:016x}\nconstants of the values {:016x}\n{}",
      type(c.k, codec::PageSide::key), type(c.v, codec::PageSide::value), c.layers, sequences, c.kv_heads, c.head_dim,
      c.rope_pairs, hash_bytes(std::as_bytes(std::span(rope))), k.identity(), v.identity(),
      c.model == 0 ? "" : fmt::format("model {:016x}\n", c.model));
}

std::vector<std::size_t> KvCache::Impl::all_sequences() const {
  std::vector<std::size_t> all(seen.size());
  std::iota(all.begin(), all.end(), std::size_t{0});
  return all;
}

void KvCache::Impl::save(const std::filesystem::path& path, std::span<const std::size_t> sequences) {
  std::vector<std::size_t> held;  // [layers][sequences]
  for (std::size_t layer = 0; layer < lengths.size(); layer += seen.size()) {
    for (const std::size_t sequence : sequences) held.push_back(lengths[layer + sequence]);
  }
  StateWriter file(path);
  const std::string text = description(sequences.size());
  file.section(std::as_bytes(std::span(text)));
  file.section(std::as_bytes(std::span(held)));
  for (Side* side : {&k, &v}) {
    Side::Copies copies;
    for (const Side::Pieces& pieces : side->contents(blocks, sequences, held, &copies)) {
      file.section(std::vector<std::span<const std::byte>>(pieces.begin(), pieces.end()));
    }
  }
  file.finish();
}

void KvCache::save(const std::filesystem::path& path) const { impl_->save(path, impl_->all_sequences()); }

void KvCache::save(const std::filesystem::path& path, int sequence) const {
  const std::size_t one = impl_->checked(sequence);
  impl_->save(path, {&one, 1});
}

/// The lengths of a saved cache's sequences, [layers][sequences].
std::vector<std::size_t> KvCache::Impl::read_lengths(StateReader& file, const std::string& name,
                                                     std::size_t sequences) const {
  std::vector<std::size_t> held(static_cast<std::size_t>(config.layers) * sequences);
  const auto saved = file.section("lengths", held.size() * sizeof(std::size_t));
  std::memcpy(held.data(), saved.data(), saved.size());
  for (const std::size_t length : held) {
    KVANT_CHECK(length <= config.capacity, ErrorCode::invalid_argument,
                "{}: a sequence of {} tokens, the capacity is {}", name, length, config.capacity);
  }
  return held;
}

/// Puts the sequences into a table that is not in use yet, so that everything is checked before anything changes.
void KvCache::Impl::load(std::span<const std::byte> bytes, const std::string& name,
                         std::span<const std::size_t> sequences) {
  StateReader file(bytes, name);
  const auto text = file.section("description");
  check_description(name, {reinterpret_cast<const char*>(text.data()), text.size()}, description(sequences.size()));
  const std::vector<std::size_t> held = read_lengths(file, name, sequences.size());
  std::vector<Segment> segments;
  BlockTable table = blocks;
  for (std::size_t i = 0; i < sequences.size(); ++i) {
    Segment s{static_cast<int>(sequences[i]), 0, 0, 0};
    for (std::size_t at = i; at < held.size(); at += sequences.size()) s.count = std::max(s.count, held[at]);
    segments.push_back(s);
    table.truncate(sequences[i], 0);
  }
  const std::size_t needed = table.needed(segments);
  KVANT_CHECK(needed <= table.free_slots(), ErrorCode::out_of_memory,
              "{}: needs {} blocks of {} tokens, {} of {} are free", name, needed, kPageTokens, table.free_slots(),
              table.slots());
  table.grow(segments);
  std::vector<std::pair<Side::Pieces, std::span<const std::byte>>> copies;
  for (Side* side : {&k, &v}) {
    for (Side::Pieces& pieces : side->contents(table, sequences, held)) {
      std::size_t size = 0;
      for (const auto piece : pieces) size += piece.size();
      copies.emplace_back(std::move(pieces), file.section(side == &k ? "keys" : "values", size));
    }
  }
  file.finish();

  for (auto& [pieces, from] : copies) {
    for (const auto piece : pieces) {
      std::memcpy(piece.data(), from.data(), piece.size());
      from = from.subspan(piece.size());
    }
  }
  blocks = std::move(table);
  for (std::size_t i = 0; i < held.size(); ++i) {
    lengths[i / sequences.size() * seen.size() + sequences[i % sequences.size()]] = held[i];
  }
  for (Side* side : {&k, &v}) {
    if (side->window() == nullptr) continue;
    for (const std::size_t s : sequences) side->window()->forget_batch(s);
  }
}

void KvCache::load(const std::filesystem::path& path) {
  const MappedFile file(path);
  load(file.bytes(), path.string());
}

void KvCache::load(const std::filesystem::path& path, int sequence) {
  const MappedFile file(path);
  load(file.bytes(), path.string(), sequence);
}

void KvCache::load(std::span<const std::byte> bytes, const std::string& name) {
  impl_->load(bytes, name, impl_->all_sequences());
}

void KvCache::load(std::span<const std::byte> bytes, const std::string& name, int sequence) {
  const std::size_t one = impl_->checked(sequence);
  impl_->load(bytes, name, {&one, 1});
}

const CacheConfig& KvCache::config() const noexcept { return impl_->config; }

CacheUsage KvCache::usage() const {
  const Impl& m = *impl_;
  CacheUsage usage = usage_of(m.config, m.k.bytes(), m.v.bytes());
  usage.constant_bytes = m.k.constant_bytes() + m.v.constant_bytes();
  usage.workspace_bytes = m.attend.workspace_bytes() + m.blocks.bytes();
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
  Maps maps(config.constants);
  for (Side* side : {&k, &v}) {
    side->prepare(config, maps);
    usage.constant_bytes += side->constant_bytes();
  }
  return usage;
}

std::size_t pool_tokens_within(const CacheConfig& config, std::size_t bytes, Isa isa) {
  check(config);
  CacheConfig c = config;
  const auto planned = [&](std::size_t blocks) {
    c.pool_tokens = blocks * kPageTokens;
    return Side(c, codec::PageSide::key, isa).planned_bytes() + Side(c, codec::PageSide::value, isa).planned_bytes();
  };
  const double one = planned(1), block = planned(2) - one, left = static_cast<double>(bytes) - one;
  if (left < 0) return 0;
  return std::min(1 + static_cast<std::size_t>(left / block), kMostPoolTokens / kPageTokens) * kPageTokens;
}

}  // namespace kvant::cache
