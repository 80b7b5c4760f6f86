#define PCRE2_CODE_UNIT_WIDTH 8
#include "eval/scripts.h"

#include <pcre2.h>

#include <array>
#include <string>

#include "base/error.h"
#include "base/utf8.h"

namespace kvant::eval {
namespace {

/// UAX #31, table 5 (Unicode 15).
constexpr std::array kNames = {"Latin",      "Arabic",   "Armenian",  "Bengali",  "Bopomofo", "Cyrillic",
                               "Devanagari", "Ethiopic", "Georgian",  "Greek",    "Gujarati", "Gurmukhi",
                               "Hangul",     "Han",      "Hebrew",    "Hiragana", "Kannada",  "Katakana",
                               "Khmer",      "Lao",      "Malayalam", "Myanmar",  "Oriya",    "Sinhala",
                               "Tamil",      "Telugu",   "Thaana",    "Thai",     "Tibetan"};

/// One group for each script and one for the others; shared characters match without a group.
std::string pattern() {
  std::string text = R"([\p{sc:Common}\p{sc:Inherited}])";
  for (const char* name : kNames) text += fmt::format(R"(|(\p{{sc:{}}}))", name);
  return text + "|(.)";
}

}  // namespace

struct Scripts::Impl {
  struct Free {
    void operator()(pcre2_code* compiled) const noexcept { pcre2_code_free(compiled); }
    void operator()(pcre2_match_data* data) const noexcept { pcre2_match_data_free(data); }
  };
  std::unique_ptr<pcre2_code, Free> code;
};

Scripts::Scripts() : impl_(std::make_unique<Impl>()) {
  const std::string text = pattern();
  int error = 0;
  PCRE2_SIZE offset = 0;
  impl_->code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                                  PCRE2_UTF | PCRE2_DOTALL | PCRE2_ANCHORED, &error, &offset, nullptr));
  KVANT_CHECK(impl_->code, ErrorCode::unsupported, "PCRE2 refuses the pattern of scripts: error {} at {}", error,
              offset);
}

Scripts::~Scripts() = default;

ScriptCounts Scripts::count(std::string_view text) const {
  const std::unique_ptr<pcre2_match_data, Impl::Free> data(
      pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr));
  KVANT_CHECK(data, ErrorCode::out_of_memory, "no memory for match data");
  ScriptCounts counts{0, std::vector<std::size_t>(kNames.size() + 1)};
  while (!text.empty()) {
    const std::size_t length = utf8_sequence_length(text);
    ++counts.characters;
    if (length > 0) {
      // One more than the group that matched: 1 where none did.
      const int result = pcre2_match(impl_->code.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), length, 0,
                                     PCRE2_NO_UTF_CHECK, data.get(), nullptr);
      KVANT_CHECK(result > 0, ErrorCode::out_of_memory, "matching a character: PCRE2 error {}", result);
      if (result > 1) ++counts.scripts[static_cast<std::size_t>(result) - 2];
    }
    text.remove_prefix(length > 0 ? length : 1);
  }
  return counts;
}

std::size_t foreign_characters(const ScriptCounts& text, const ScriptCounts& reference) {
  std::size_t count = 0;
  for (std::size_t i = 0; i < text.scripts.size(); ++i) count += reference.scripts[i] == 0 ? text.scripts[i] : 0;
  return count;
}

}  // namespace kvant::eval
