#include "eval/prompts.h"

#include <algorithm>

#include "base/error.h"
#include "base/utf8.h"

namespace kvant::eval {
namespace {

constexpr std::string_view kSeparator = "---";

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
  }
  return lines;
}

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r\n\f\v") == line.npos; }

}  // namespace

std::vector<std::string> parse_prompts(std::string_view text, std::string_view source) {
  KVANT_CHECK(is_valid_utf8(text), ErrorCode::invalid_argument, "{}: the prompts are no valid UTF-8", source);
  const std::vector<std::string_view> lines = lines_of(text);
  const bool blocks = std::ranges::find(lines, kSeparator) != lines.end();
  std::vector<std::string> prompts;
  std::string prompt;
  const auto finish = [&] {
    while (prompt.ends_with('\n')) prompt.pop_back();
    if (!prompt.empty()) prompts.push_back(std::move(prompt));
    prompt.clear();
  };
  for (const std::string_view line : lines) {
    const bool separator = blocks && line == kSeparator;
    if (!separator && !(prompt.empty() && is_blank(line))) {
      prompt += is_blank(line) ? "" : line;
      prompt += '\n';
    }
    if (separator || !blocks) finish();
  }
  finish();
  KVANT_CHECK(!prompts.empty(), ErrorCode::invalid_argument, "{}: holds no prompt", source);
  return prompts;
}

}  // namespace kvant::eval
