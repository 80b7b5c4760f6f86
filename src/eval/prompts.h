#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace kvant::eval {

/// The prompts in a file of them. Where a line is "---", prompts are what stands between such lines, of any number of
/// lines; else every line is one. Line ends are LF or CRLF and do not belong to a prompt, neither do empty lines at its
/// start and end; a prompt without anything but white space is none. Throws invalid_argument, naming `source`, when
/// there is no prompt or the text is no valid UTF-8.
std::vector<std::string> parse_prompts(std::string_view text, std::string_view source);

}  // namespace kvant::eval
