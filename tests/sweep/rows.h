#pragma once
#include <string>
#include <vector>

namespace kvant {

/// Rows of a query as texts with '|' between columns. Throws Error{io} as SQLite says.
std::vector<std::string> query(const std::string& database, const std::string& sql);

/// All that a sweep's database says, in an order of its own: all tables but what depends on when and in which order
/// cells were measured (ids, seconds, finished).
std::vector<std::string> all_rows(const std::string& database);

}  // namespace kvant
