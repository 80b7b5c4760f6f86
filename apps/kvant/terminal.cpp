#include "terminal.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

#include "base/error.h"

namespace kvant::app {
namespace {

constexpr double kFirstSeconds = 0.5;  ///< shorter work stays silent
constexpr double kTerminalSeconds = 0.1;
constexpr double kPlainSeconds = 10;

/// Whether all of `text` was written; errno tells why not.
bool write_all(int fd, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

bool is_terminal(int fd) noexcept {
  const char* term = std::getenv("TERM");
  return ::isatty(fd) == 1 && (term == nullptr || std::strcmp(term, "dumb") != 0);
}

std::string styled(std::string_view text, const char* code, bool on) {
  return on && std::getenv("NO_COLOR") == nullptr ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
}

/// Characters of valid UTF-8 text.
std::size_t width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

}  // namespace

void write_stdout(std::string_view text) {
  KVANT_CHECK(write_all(STDOUT_FILENO, text), ErrorCode::io, "standard output: cannot write: {}", std::strerror(errno));
}

void write_stderr(std::string_view text) noexcept { (void)write_all(STDERR_FILENO, text); }

bool stdin_is_terminal() noexcept { return ::isatty(STDIN_FILENO) == 1; }
bool stdout_is_terminal() noexcept { return is_terminal(STDOUT_FILENO); }
bool stderr_is_terminal() noexcept { return is_terminal(STDERR_FILENO); }

std::string bold(std::string_view text, bool on) { return styled(text, "1", on); }
std::string dim(std::string_view text, bool on) { return styled(text, "2", on); }

std::size_t terminal_columns() noexcept {
  winsize size{};
  return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string format_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  for (; bytes >= 1000 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1024;
  const int decimals = unit == 0 || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2;
  return fmt::format("{:.{}f} {}", bytes, decimals, kUnits[unit]);
}

std::string format_duration(double seconds) {
  const auto s = static_cast<long long>(std::llround(std::max(0.0, seconds)));
  return s < 3600 ? fmt::format("{}:{:02}", s / 60, s % 60)
                  : fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

std::string bar(double value, double top, std::size_t width) {
  constexpr const char* kFullBlock = "\xe2\x96\x88";  // U+2588
  const double share = top > 0 ? std::clamp(value / top, 0.0, 1.0) : 0;
  const auto filled = static_cast<std::size_t>(std::lround(share * static_cast<double>(width)));
  std::string out;
  for (std::size_t i = 0; i < width; ++i) out += i < filled ? kFullBlock : " ";
  return out;
}

Table::Table(std::vector<std::string> headers) {
  for (std::string& header : headers) {
    left_.push_back(header.starts_with('<'));
    if (left_.back()) header.erase(0, 1);
  }
  rows_.push_back(std::move(headers));
}

void Table::add(std::vector<std::string> cells) {
  KVANT_ASSERT(cells.size() == left_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::text(bool colour) const {
  std::vector<std::size_t> widths(left_.size(), 0);
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width(row[c]));
  }
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string padding(widths[c] - width(row[c]), ' ');
      line += c == 0 ? "" : "  ";
      line += left_[c] ? row[c] + padding : padding + row[c];
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += bold(line, colour && &row == &rows_.front()) + "\n";
  }
  return out;
}

std::string Table::markdown() const {
  std::string out;
  for (const auto& row : rows_) {
    for (const std::string& cell : row) out += "| " + cell + " ";
    out += "|\n";
    if (&row != &rows_.front()) continue;
    for (const bool left : left_) out += left ? "|---" : "|---:";
    out += "|\n";
  }
  return out;
}

Progress::Progress(std::string label, std::string unit)
    : label_(std::move(label)),
      unit_(std::move(unit)),
      terminal_(stderr_is_terminal()),
      next_seconds_(terminal_ ? kFirstSeconds : kPlainSeconds) {}

Progress::~Progress() { clear(); }

void Progress::clear() noexcept {
  if (shown_ && terminal_) write_stderr("\r\x1b[K");
  shown_ = false;
}

void Progress::update(std::size_t done, std::size_t total, std::string_view text) {
  const double seconds = watch_.seconds();
  if (seconds < next_seconds_) return;
  next_seconds_ = seconds + (terminal_ ? kTerminalSeconds : kPlainSeconds);
  const double rate = static_cast<double>(done) / seconds;
  const double left = rate > 0 ? static_cast<double>(total - std::min(done, total)) / rate : 0;
  const std::string speed = rate >= 1 || rate == 0 ? fmt::format("{:.{}f}/s", rate, rate < 100 ? 1 : 0)
                                                   : fmt::format("{:.1f} s each", 1 / rate);
  const std::string status = fmt::format("{}/{} {}, {}, {} left{}{}", done, total, unit_, speed, format_duration(left),
                                         text.empty() ? "" : ", ", text);
  if (!terminal_) {
    write_stderr(fmt::format("{}: {}\n", label_, status));
    return;
  }
  constexpr std::size_t kBar = 20;
  const std::size_t filled = total == 0 ? 0 : std::min(done, total) * kBar / total;
  std::string line =
      fmt::format("{} [{}{}] {}", label_, std::string(filled, '#'), std::string(kBar - filled, '.'), status);
  if (line.size() >= terminal_columns()) line.resize(terminal_columns() - 1);
  write_stderr("\r\x1b[K" + line);
  shown_ = true;
}

}  // namespace kvant::app
