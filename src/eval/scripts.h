#pragma once
#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

namespace kvant::eval {

/// Characters of a text by their script.
struct ScriptCounts {
  std::size_t characters = 0;        ///< all; a byte that is no valid UTF-8 is one
  std::vector<std::size_t> scripts;  ///< of each script; those that belong to none are in no entry
};

/// Tells which script characters belong to (property Script of Unicode, as PCRE2 has it): the scripts that
/// Unicode recommends for names (UAX #31, table 5), with all others taken together as one more. Characters that scripts
/// share ("Common", "Inherited": digits, punctuation, spaces, combining marks, emoji) belong to none, and neither do
/// invalid bytes.
class Scripts {
 public:
  Scripts();
  ~Scripts();
  ScriptCounts count(std::string_view text) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// How many characters are of scripts that the reference does not use at all.
std::size_t foreign_characters(const ScriptCounts& text, const ScriptCounts& reference);

}  // namespace kvant::eval
