#pragma once
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

namespace kvant::sweep {

/// A model as the tables know it; `hash` is model_hash (sweep/content.h).
struct ModelRow {
  std::string hash, file, name, architecture, weights;
  std::size_t bytes = 0, layers = 0, q_heads = 0, kv_heads = 0, head_dim = 0;
};

/// A text; `hash` is that of its bytes.
struct CorpusRow {
  std::string hash, file;
  std::size_t bytes = 0;
};

/// What a plan says about one KV head: bits of a value, scales included, and its parts as text.
struct PlanHead {
  std::string side;  ///< "k" or "v"
  std::size_t layer = 0, kv_head = 0;
  double bits = 0;
  std::string parts;
};

/// A plan file; `hash` is that of its bytes.
struct PlanRow {
  std::string hash, file;
  std::size_t bytes = 0;
  std::vector<PlanHead> heads;
};

/// Keys before RoPE of one channel.
struct ChannelRow {
  std::size_t layer = 0, kv_head = 0, channel = 0;
  double mean = 0, deviation = 0;
};

struct MetricRow {
  std::string scope;  ///< "all", "last_quarter" or "positions:BEGIN-END"
  std::string name;
  double value = 0;  ///< stored as NULL where it is not finite
};

struct RetrievalRow {
  std::size_t keys = 0;
  double depth = 0;
  std::size_t trials = 0, found = 0;
  double low = 0, high = 0;
};

/// One result. Rows of other tables are named by their hashes.
struct CellRow {
  std::string key;                        ///< everything that decides the result
  std::string kind, model, corpus, plan;  ///< plan "": none
  std::string k, v;
  std::size_t context = 0, chunks = 0;
  std::string reference, precision, version, command;
  std::size_t tokens = 0;
  double k_bpv = 0, v_bpv = 0;
  std::size_t cache_bytes = 0, constant_bytes = 0;
  double seconds = 0;
  std::string finished;  ///< UTC, "2026-01-31T12:00:00Z"
  std::vector<MetricRow> metrics;
  std::vector<RetrievalRow> retrieval;
};

/// A unit of work is a cell, by its key, or the channels of a model and a text, of these hashes, by this name.
std::string channels_unit(const std::string& model, const std::string& corpus);

/// What some units have found, with the rows that their cells name.
struct Findings {
  std::vector<ModelRow> models;
  std::vector<CorpusRow> corpora;
  std::vector<PlanRow> plans;
  std::vector<CellRow> cells;
  /// Of the first model and the first corpus, where not empty.
  std::vector<ChannelRow> channels;
};

/// What claims have led to. Units that are neither are held by others, or beyond what was asked for.
struct Claimed {
  std::vector<std::string> taken;    ///< the caller's now
  std::vector<std::string> settled;  ///< with nothing left to do
};

/// The database of a sweep (docs/sweep.md): SQLite with a write-ahead log, so that several processes may use it at
/// once. All members throw io when the file cannot be read or written or the disk is full, in one line that starts with
/// the file's name.
class Database {
 public:
  static constexpr int kVersion = 1;  ///< of the tables, PRAGMA user_version

  /// Opens a database, or makes one where there is no file or an empty one. Throws format when the file is none, or has
  /// other tables; unsupported, naming both, when its version is another.
  explicit Database(const std::string& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  const std::string& path() const noexcept;

  /// All units that are finished: the keys of the cells there are, and channels_unit of the channels.
  std::unordered_set<std::string> finished() const;

  /// Takes those of the units for `owner` that nobody works on, in their order and at most `most`, in one transaction.
  /// Claims whose owner `is_dead`, or has shown no heartbeat for kExpirySeconds, count for nothing.
  Claimed claim(std::span<const std::string> units, std::size_t most, const std::string& owner,
                bool (*is_dead)(const std::string& owner));
  /// Tells that `owner` lives.
  void beat(const std::string& owner);
  /// Gives all claims of `owner` back.
  void release(const std::string& owner);
  static constexpr int kExpirySeconds = 60;

  /// Writes all rows in one transaction, with which the claims on `units` end. Rows that are there already stay as they
  /// are.
  void add(const Findings& findings, std::span<const std::string> units);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant::sweep
