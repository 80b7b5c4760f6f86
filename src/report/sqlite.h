#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace kvant::report {

/// A database whose content is only read. Errors name the file and are of one line.
class Database {
 public:
  /// Opens it and begins the one transaction that all statements see. Throws io where there is no such file,
  /// out_of_memory where it has over 256 MiB.
  explicit Database(const std::string& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  const std::string& path() const noexcept { return path_; }

 private:
  friend class Rows;
  void open(const std::string& name, int flags);
  void begin();
  [[noreturn]] void fail_with_message(int status) const;
  void close() noexcept;

  std::string path_;
  sqlite3* handle_ = nullptr;
};

/// The rows of one query, one after the other: `while (rows.next()) ...`.
class Rows {
 public:
  /// Throws format where the tables or columns of the query are not there.
  Rows(const Database& database, std::string_view query);
  ~Rows();
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;

  /// Steps to the next row; false after the last.
  bool next();
  int columns() const;
  std::string_view name(int column) const;
  bool is_null(int column) const;
  /// A whole number, or nothing where the column holds none.
  std::optional<std::int64_t> integer(int column) const;
  /// A finite number, or nothing.
  std::optional<double> real(int column) const;
  /// Text, or the bytes of whatever stands there; valid until next().
  std::string_view text(int column) const;

 private:
  const Database& database_;
  sqlite3_stmt* statement_ = nullptr;
};

}  // namespace kvant::report
