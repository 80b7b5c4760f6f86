#pragma once
#include <string>
#include <string_view>

namespace kvant::report {

/// All that a database of `kvant sweep` holds (docs/sweep.md has its tables) as one JSON document in ASCII, the form
/// that the page takes: report/src/data.ts describes it. `version` names the program that writes the page.
///
/// The database is read in one transaction and its content never changed, so a sweep may be running. What is no finite
/// number becomes null, and bytes that are no UTF-8 become U+FFFD. Throws io (no such file, unreadable), format (no
/// database, not of kvant, of another version, or contradicting itself) and out_of_memory (over 256 MiB, or over 2^21
/// key channels).
std::string read_document(const std::string& path, std::string_view version);

}  // namespace kvant::report
