/// make_database FILE SQL...: runs files of SQL statements on a new database, for the browser tests.
#include <fmt/format.h>
#include <sqlite3.h>

#include <cstdio>
#include <filesystem>

#include "base/file_io.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  std::filesystem::remove(argv[1]);
  sqlite3* database = nullptr;
  int status = sqlite3_open(argv[1], &database);
  for (int i = 2; i < argc && status == SQLITE_OK; ++i) {
    status = sqlite3_exec(database, kvant::read_text(argv[i]).c_str(), nullptr, nullptr, nullptr);
    if (status != SQLITE_OK) fmt::print(stderr, "{}: {}\n", argv[i], sqlite3_errmsg(database));
  }
  sqlite3_close(database);
  return status == SQLITE_OK ? 0 : 1;
}
