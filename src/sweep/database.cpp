#include "sweep/database.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <thread>

#include "base/error.h"
#include "sweep/schema.h"

namespace kvant::sweep {
namespace {

/// Longer than any transaction here takes on a slow disk.
constexpr int kBusyMilliseconds = 30000;
/// Channels by the name of their unit.
constexpr const char* kChannelUnits =
    "SELECT 'channels ' || model.hash || ' ' || corpus.hash AS unit FROM model, corpus "
    "WHERE EXISTS (SELECT 1 FROM channel WHERE model_id = model.id AND corpus_id = corpus.id)";
constexpr const char* kNow = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')";

/// A connection whose errors name the file.
class Connection {
 public:
  explicit Connection(const std::string& path) : path_(path) {
    const int status = sqlite3_open_v2(path.c_str(), &handle_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
    if (status != SQLITE_OK) {
      const std::string reason = message(status);
      sqlite3_close(handle_);
      fail(ErrorCode::io, "{}", reason);
    }
    sqlite3_extended_result_codes(handle_, 1);
    sqlite3_busy_timeout(handle_, kBusyMilliseconds);
  }
  ~Connection() { sqlite3_close(handle_); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const std::string& path() const noexcept { return path_; }
  sqlite3* handle() const noexcept { return handle_; }

  void run(const std::string& sql) const {
    check(sqlite3_exec(handle_, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK);
  }
  void check(int status, int expected) const {
    if (status == expected) return;
    const bool foreign = (status & 0xff) == SQLITE_NOTADB || (status & 0xff) == SQLITE_CORRUPT;
    fail(foreign ? ErrorCode::format : ErrorCode::io, "{}", message(status));
  }

 private:
  std::string message(int status) const {
    const char* reason = handle_ == nullptr ? sqlite3_errstr(status) : sqlite3_errmsg(handle_);
    std::string text = fmt::format("{}: {}", path_, printable(reason, 200));
    const int primary = status & 0xff;
    const int system = handle_ == nullptr ? 0 : sqlite3_system_errno(handle_);
    if (system != 0 && (primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN)) {
      text += fmt::format(" ({})", std::strerror(system));
    }
    return text;
  }

  std::string path_;
  sqlite3* handle_ = nullptr;
};

/// A prepared statement. bind() takes the values of its parameters in their order.
class Statement {
 public:
  Statement(const Connection& connection, std::string_view sql) : connection_(connection) {
    connection.check(
        sqlite3_prepare_v2(connection.handle(), sql.data(), static_cast<int>(sql.size()), &statement_, nullptr),
        SQLITE_OK);
  }
  ~Statement() { sqlite3_finalize(statement_); }
  Statement(const Statement&) = delete;
  Statement& operator=(const Statement&) = delete;

  template <class... Values>
  Statement& bind(const Values&... values) {
    sqlite3_reset(statement_);
    int at = 0;
    (put(++at, values), ...);
    return *this;
  }
  /// Steps to a row; false when there is none left.
  bool next() {
    const int status = sqlite3_step(statement_);
    if (status == SQLITE_DONE) {
      sqlite3_reset(statement_);
      return false;
    }
    connection_.check(status, SQLITE_ROW);
    return true;
  }
  /// Runs to the end; how many rows it changed.
  int run() {
    while (next()) {
    }
    return sqlite3_changes(connection_.handle());
  }
  std::int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return bytes == nullptr ? std::string() : std::string(bytes);
  }

 private:
  void put(int at, const std::string& text) {
    // Bound by reference: what is bound outlives the run of a statement.
    connection_.check(sqlite3_bind_text(statement_, at, text.data(), static_cast<int>(text.size()), SQLITE_STATIC),
                      SQLITE_OK);
  }
  void put(int at, std::int64_t value) { connection_.check(sqlite3_bind_int64(statement_, at, value), SQLITE_OK); }
  void put(int at, std::size_t value) { put(at, static_cast<std::int64_t>(value)); }
  void put(int at, double value) {
    connection_.check(
        std::isfinite(value) ? sqlite3_bind_double(statement_, at, value) : sqlite3_bind_null(statement_, at),
        SQLITE_OK);
  }

  const Connection& connection_;
  sqlite3_stmt* statement_ = nullptr;
};

/// Commits what happens in its life, or nothing of it. It has the one right to write from the start.
class Transaction {
 public:
  explicit Transaction(const Connection& connection) : connection_(connection) { connection.run("BEGIN IMMEDIATE"); }
  ~Transaction() {
    if (!done_) sqlite3_exec(connection_.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
  }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  void commit() {
    connection_.run("COMMIT");
    done_ = true;
  }

 private:
  const Connection& connection_;
  bool done_ = false;
};

/// Whether nothing is in the file yet. Throws unless it then is a database of this version. One statement reads all
/// there is to know, since another process may be making the tables.
bool is_new(const Connection& connection) {
  Statement file(connection,
                 "SELECT (SELECT user_version FROM pragma_user_version), count(*), total(type = 'table' AND name IN "
                 "('model', 'corpus', 'plan', 'plan_head', 'channel', 'cell', 'metric', 'retrieval', 'claim')) "
                 "FROM sqlite_schema");
  KVANT_CHECK(file.next(), ErrorCode::io, "{}: its tables cannot be read", connection.path());
  const std::int64_t version = file.integer(0), things = file.integer(1), tables = file.integer(2);
  if (version == Database::kVersion) {
    constexpr std::int64_t kTables = 9;
    KVANT_CHECK(tables == kTables, ErrorCode::format, "{}: {} of the {} tables of kvant sweep", connection.path(),
                tables, kTables);
    return false;
  }
  if (version == 0) {
    KVANT_CHECK(things == 0, ErrorCode::format, "{}: not a database of kvant sweep", connection.path());
    return true;
  }
  fail(ErrorCode::unsupported, "{}: version {} of the tables, expected {}", connection.path(), version,
       Database::kVersion);
}

/// The switch to a write-ahead log does not wait for other processes that switch as well.
void use_log(const Connection& connection) {
  Statement mode(connection, "PRAGMA journal_mode = WAL");
  for (int waited = 0;; waited += 10) {
    try {
      KVANT_CHECK(mode.bind().next() && mode.text(0) == "wal", ErrorCode::io,
                  "{}: no write-ahead log can be kept on this file system", connection.path());
      return;
    } catch (const Error&) {
      if (sqlite3_errcode(connection.handle()) != SQLITE_BUSY || waited >= kBusyMilliseconds) throw;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
}

void prepare(const Connection& connection) {
  if (is_new(connection)) {
    use_log(connection);
    Transaction transaction(connection);
    if (is_new(connection)) connection.run(kSchema);
    transaction.commit();
  }
  connection.run("PRAGMA foreign_keys = ON; PRAGMA synchronous = FULL");
}

}  // namespace

struct Database::Impl {
  explicit Impl(const std::string& path) : connection(path) { prepare(connection); }

  std::int64_t id(const char* table, const std::string& hash) {
    Statement statement(connection, fmt::format("SELECT id FROM {} WHERE hash = ?", table));
    KVANT_CHECK(statement.bind(hash).next(), ErrorCode::format, "{}: table {} has no row {}", connection.path(), table,
                hash);
    return statement.integer(0);
  }

  void add_subjects(const Findings& findings) {
    Statement model(connection,
                    "INSERT INTO model(hash, file, name, architecture, weights, bytes, layers, q_heads, kv_heads, "
                    "head_dim) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(hash) DO NOTHING");
    for (const ModelRow& m : findings.models) {
      model
          .bind(m.hash, m.file, m.name, m.architecture, m.weights, m.bytes, m.layers, m.q_heads, m.kv_heads, m.head_dim)
          .run();
    }
    Statement corpus(connection, "INSERT INTO corpus(hash, file, bytes) VALUES (?, ?, ?) ON CONFLICT(hash) DO NOTHING");
    for (const CorpusRow& c : findings.corpora) corpus.bind(c.hash, c.file, c.bytes).run();
    Statement plan(connection, "INSERT INTO plan(hash, file, bytes) VALUES (?, ?, ?) ON CONFLICT(hash) DO NOTHING");
    Statement head(connection, "INSERT INTO plan_head VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING");
    for (const PlanRow& p : findings.plans) {
      plan.bind(p.hash, p.file, p.bytes).run();
      const std::int64_t row = id("plan", p.hash);
      for (const PlanHead& h : p.heads) head.bind(row, h.side, h.layer, h.kv_head, h.bits, h.parts).run();
    }
  }

  void add_channels(const Findings& findings) {
    if (findings.channels.empty()) return;
    const std::int64_t model = id("model", findings.models.at(0).hash),
                       corpus = id("corpus", findings.corpora.at(0).hash);
    Statement channel(connection, "INSERT INTO channel VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING");
    for (const ChannelRow& c : findings.channels) {
      channel.bind(model, corpus, c.layer, c.kv_head, c.channel, c.mean, c.deviation).run();
    }
  }

  void add_cell(const CellRow& c) {
    Statement cell(connection,
                   "INSERT INTO cell(key, kind, model_id, corpus_id, plan_id, k, v, context, chunks, reference, "
                   "precision, version, command, tokens, k_bpv, v_bpv, cache_bytes, constant_bytes, seconds, finished) "
                   "VALUES (?, ?, ?, ?, (SELECT id FROM plan WHERE hash = ?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, "
                   "?, ?) ON CONFLICT(key) DO NOTHING");
    const int added = cell.bind(c.key, c.kind, id("model", c.model), id("corpus", c.corpus), c.plan, c.k, c.v,
                                c.context, c.chunks, c.reference, c.precision, c.version, c.command, c.tokens, c.k_bpv,
                                c.v_bpv, c.cache_bytes, c.constant_bytes, c.seconds, c.finished)
                          .run();
    if (added == 0) return;  // another process has written it
    const std::int64_t row = sqlite3_last_insert_rowid(connection.handle());
    Statement metric(connection, "INSERT INTO metric VALUES (?, ?, ?, ?)");
    for (const MetricRow& m : c.metrics) metric.bind(row, m.scope, m.name, m.value).run();
    Statement retrieval(connection, "INSERT INTO retrieval VALUES (?, ?, ?, ?, ?, ?, ?)");
    for (const RetrievalRow& r : c.retrieval)
      retrieval.bind(row, r.keys, r.depth, r.trials, r.found, r.low, r.high).run();
  }

  Connection connection;
};

std::string channels_unit(const std::string& model, const std::string& corpus) {
  return fmt::format("channels {} {}", model, corpus);
}

Database::Database(const std::string& path) : impl_(std::make_unique<Impl>(path)) {}
Database::~Database() = default;

const std::string& Database::path() const noexcept { return impl_->connection.path(); }

std::unordered_set<std::string> Database::finished() const {
  std::unordered_set<std::string> units;
  Statement statement(impl_->connection, fmt::format("SELECT key FROM cell UNION ALL {}", kChannelUnits));
  while (statement.next()) units.insert(statement.text(0));
  return units;
}

Claimed Database::claim(std::span<const std::string> units, std::size_t most, const std::string& owner,
                        bool (*is_dead)(const std::string& owner)) {
  const Connection& connection = impl_->connection;
  Claimed claimed;
  Transaction transaction(connection);
  Statement finished(connection, fmt::format("SELECT 1 FROM cell WHERE key = ?1 UNION ALL "
                                             "SELECT 1 FROM ({}) WHERE unit = ?1 LIMIT 1",
                                             kChannelUnits));
  Statement held(connection, fmt::format("SELECT owner, unixepoch('now') - unixepoch(heartbeat) > {} FROM claim "
                                         "WHERE unit = ?",
                                         kExpirySeconds));
  Statement take(connection, fmt::format("INSERT OR REPLACE INTO claim VALUES (?, ?, {})", kNow));
  for (const std::string& unit : units) {
    if (finished.bind(unit).next()) {
      claimed.settled.push_back(unit);
      continue;
    }
    if (claimed.taken.size() == most) continue;
    if (held.bind(unit).next()) {
      const std::string other = held.text(0);
      if (other == owner || (held.integer(1) == 0 && !is_dead(other))) continue;
    }
    take.bind(unit, owner).run();
    claimed.taken.push_back(unit);
  }
  transaction.commit();
  return claimed;
}

void Database::beat(const std::string& owner) {
  Statement(impl_->connection, fmt::format("UPDATE claim SET heartbeat = {} WHERE owner = ?", kNow)).bind(owner).run();
}

void Database::release(const std::string& owner) {
  Statement(impl_->connection, "DELETE FROM claim WHERE owner = ?").bind(owner).run();
}

void Database::add(const Findings& findings, std::span<const std::string> units) {
  Transaction transaction(impl_->connection);
  impl_->add_subjects(findings);
  impl_->add_channels(findings);
  for (const CellRow& cell : findings.cells) impl_->add_cell(cell);
  Statement end(impl_->connection, "DELETE FROM claim WHERE unit = ?");
  for (const std::string& unit : units) end.bind(unit).run();
  transaction.commit();
}

}  // namespace kvant::sweep
