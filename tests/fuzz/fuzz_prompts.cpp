#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "eval/prompts.h"

// Takes arbitrary bytes for a file of prompts. Prompts hold something, begin and end with it, and are in the text.
// Anything but that or a kvant::Error is a finding.

// NOLINTNEXTLINE(readability-identifier-naming): libFuzzer's name
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    std::size_t bytes = 0;
    for (const std::string& prompt : kvant::eval::parse_prompts(text, "fuzz")) {
      if (prompt.empty() || prompt.front() == '\n' || prompt.back() == '\n') std::abort();
      if (text.find(prompt.substr(0, prompt.find('\n'))) == text.npos) std::abort();
      bytes += prompt.size();
    }
    if (bytes > size) std::abort();
  } catch (const kvant::Error&) {
    return 0;
  }
  return 0;
}
