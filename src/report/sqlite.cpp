#include "report/sqlite.h"

#include <sqlite3.h>

#include <cmath>
#include <filesystem>

#include "base/error.h"

namespace kvant::report {
namespace {

namespace fs = std::filesystem;

constexpr std::uintmax_t kMaxBytes = std::uintmax_t{256} << 20;
constexpr int kBusyMilliseconds = 5000;

/// The URI of a file that nobody writes to.
std::string immutable_uri(const std::string& path) {
  std::string uri = "file:";
  for (const char c : fs::absolute(path).string()) {
    if (c == '%' || c == '?' || c == '#') {
      uri += fmt::format("%{:02x}", static_cast<unsigned>(c));
    } else {
      uri += c;
    }
  }
  return uri + "?immutable=1";
}

}  // namespace

Database::Database(const std::string& path) : path_(path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  KVANT_CHECK(fs::exists(status), ErrorCode::io, "{}: no such file", path);
  KVANT_CHECK(fs::is_regular_file(status), ErrorCode::io, "{}: not a file", path);
  const std::uintmax_t bytes = fs::file_size(path, error);
  KVANT_CHECK(!error, ErrorCode::io, "{}: {}", path, error.message());
  KVANT_CHECK(bytes <= kMaxBytes, ErrorCode::out_of_memory, "{}: {} bytes, a report is made of at most {}", path, bytes,
              kMaxBytes);
  try {
    // Not read-only: such a connection would leave the files of its log behind.
    open(path, SQLITE_OPEN_READWRITE);
    begin();
  } catch (const Error&) {
    close();
    // A write-ahead log needs a shared-memory file beside it, which a folder that cannot be written to does not allow.
    // Without a log the file itself is whole.
    if (fs::exists(path + "-wal", error)) throw;
    try {
      open(immutable_uri(path), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
      begin();
    } catch (const Error&) {
      close();
      throw;
    }
  }
}

Database::~Database() { close(); }

void Database::close() noexcept {
  sqlite3_close(handle_);
  handle_ = nullptr;
}

void Database::open(const std::string& name, int flags) {
  const int status = sqlite3_open_v2(name.c_str(), &handle_, flags, nullptr);
  if (status != SQLITE_OK) fail_with_message(status);
  sqlite3_busy_timeout(handle_, kBusyMilliseconds);
  // The file may have been made by anyone: its views and triggers get no functions that act on anything.
  sqlite3_db_config(handle_, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(handle_, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
}

void Database::begin() {
  const int status = sqlite3_exec(handle_, "PRAGMA query_only = ON; BEGIN; SELECT count(*) FROM sqlite_schema", nullptr,
                                  nullptr, nullptr);
  if (status != SQLITE_OK) fail_with_message(status);
}

void Database::fail_with_message(int status) const {
  const bool foreign = status == SQLITE_NOTADB || status == SQLITE_CORRUPT || status == SQLITE_ERROR;
  const char* message = handle_ == nullptr ? sqlite3_errstr(status) : sqlite3_errmsg(handle_);
  fail(foreign ? ErrorCode::format : ErrorCode::io, "{}: {}", path_, printable(message, 200));
}

Rows::Rows(const Database& database, std::string_view query) : database_(database) {
  const int status =
      sqlite3_prepare_v2(database.handle_, query.data(), static_cast<int>(query.size()), &statement_, nullptr);
  if (status != SQLITE_OK) database.fail_with_message(status);
}

Rows::~Rows() { sqlite3_finalize(statement_); }

bool Rows::next() {
  const int status = sqlite3_step(statement_);
  if (status != SQLITE_ROW && status != SQLITE_DONE) database_.fail_with_message(status);
  return status == SQLITE_ROW;
}

int Rows::columns() const { return sqlite3_column_count(statement_); }

std::string_view Rows::name(int column) const { return sqlite3_column_name(statement_, column); }

bool Rows::is_null(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }

std::optional<std::int64_t> Rows::integer(int column) const {
  if (sqlite3_column_type(statement_, column) != SQLITE_INTEGER) return std::nullopt;
  return sqlite3_column_int64(statement_, column);
}

std::optional<double> Rows::real(int column) const {
  const int type = sqlite3_column_type(statement_, column);
  if (type != SQLITE_INTEGER && type != SQLITE_FLOAT) return std::nullopt;
  const double value = sqlite3_column_double(statement_, column);
  if (!std::isfinite(value)) return std::nullopt;
  return value;
}

std::string_view Rows::text(int column) const {
  const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
  const auto size = static_cast<std::size_t>(sqlite3_column_bytes(statement_, column));
  return bytes == nullptr ? std::string_view() : std::string_view(bytes, size);
}

}  // namespace kvant::report
