#pragma once
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <stdlib.h>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/file_io.h"

namespace kvant::sweep {

/// A folder for the running test, removed at the end.
class TestFolder {
 public:
  TestFolder() {
    std::string pattern = testing::TempDir() + "kvant-XXXXXX";
    path_ = ::mkdtemp(pattern.data());
  }
  ~TestFolder() { std::filesystem::remove_all(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  std::string path(const std::string& name) const { return (path_ / name).string(); }
  /// Writes a file and returns its path.
  std::string write(const std::string& name, std::string_view bytes) const {
    AtomicFile file(path(name));
    file.write(bytes);
    file.commit();
    return path(name);
  }

 private:
  std::filesystem::path path_;
};

/// Rows of a query as texts with '|' between columns, for tests; what a statement says that gives none: "error: ...".
inline std::vector<std::string> query(const std::string& database, const std::string& sql) {
  std::vector<std::string> rows;
  sqlite3* handle = nullptr;
  sqlite3_open(database.c_str(), &handle);
  const auto add = [](void* to, int columns, char** values, char**) {
    std::string row;
    for (int i = 0; i < columns; ++i)
      row += (i == 0 ? "" : "|") + std::string(values[i] == nullptr ? "NULL" : values[i]);
    static_cast<std::vector<std::string>*>(to)->push_back(row);
    return 0;
  };
  if (sqlite3_exec(handle, sql.c_str(), add, &rows, nullptr) != SQLITE_OK) {
    rows.push_back(std::string("error: ") + sqlite3_errmsg(handle));
  }
  sqlite3_close(handle);
  return rows;
}

}  // namespace kvant::sweep
