#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace kvant::app {

/// Writes to standard output or standard error at once. Throws io when that fails (a full disk; a closed pipe ends the
/// program by its signal).
void write_stdout(std::string_view text);
void write_stderr(std::string_view text) noexcept;

bool stdin_is_terminal() noexcept;
bool stdout_is_terminal() noexcept;
bool stderr_is_terminal() noexcept;

/// `text` in bold or dim type when `on`, plain otherwise.
std::string bold(std::string_view text, bool on);
std::string dim(std::string_view text, bool on);

/// Columns of the terminal behind standard error, 80 where there is none.
std::size_t terminal_columns() noexcept;

/// "12.3 MiB", binary units, three significant digits.
std::string format_bytes(double bytes);
/// "1:05:09" or "2:07".
std::string format_duration(double seconds);

/// A bar of `width` columns, filled as `value` fills `top`.
std::string bar(double value, double top, std::size_t width);

/// A text table: columns as wide as their widest cell, a header in bold on a terminal.
class Table {
 public:
  /// A header that starts with '<' makes its column left-aligned; all others are right-aligned.
  explicit Table(std::vector<std::string> headers);
  /// Adds a row of as many cells as there are headers.
  void add(std::vector<std::string> cells);
  std::string text(bool colour) const;
  /// The same as a Markdown table.
  std::string markdown() const;

 private:
  std::vector<bool> left_;
  std::vector<std::vector<std::string>> rows_;  ///< the headers first
};

/// Shows how far a long job is, on standard error: a bar with rate and remaining time on a terminal, else one plain
/// line each ten seconds. Shows nothing for work that is done within half a second.
class Progress {
 public:
  /// label: what is being done ("prompt"); unit: what is counted ("tokens").
  Progress(std::string label, std::string unit);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::size_t done, std::size_t total, std::string_view text = {});
  /// Takes the bar off the terminal.
  void clear() noexcept;

 private:
  std::string label_, unit_;
  bool terminal_;
  bool shown_ = false;
  double next_seconds_;
  Stopwatch watch_;
};

}  // namespace kvant::app
