#include "tokenizer/word_oracle.h"

#ifdef KVANT_HAS_ONIGURUMA
#include <oniguruma.h>

#include <memory>

#include "base/error.h"

namespace kvant::tokenizer {
namespace {

const OnigUChar* bytes(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

struct Free {
  void operator()(regex_t* regex) const { onig_free(regex); }
  void operator()(OnigRegion* region) const { onig_region_free(region, 1); }
};

}  // namespace

std::vector<std::string> oniguruma_words(std::string_view pattern, const std::string& text) {
  OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
  onig_initialize(encodings, 1);
  regex_t* compiled = nullptr;
  OnigErrorInfo error;
  const int status = onig_new(&compiled, bytes(pattern), bytes(pattern) + pattern.size(), ONIG_OPTION_NONE,
                              ONIG_ENCODING_UTF8, ONIG_SYNTAX_RUBY, &error);
  KVANT_CHECK(status == ONIG_NORMAL, ErrorCode::invalid_argument, "{}: Oniguruma error {}", pattern, status);
  const std::unique_ptr<regex_t, Free> regex(compiled);
  const std::unique_ptr<OnigRegion, Free> region(onig_region_new());
  std::vector<std::string> words;
  const OnigUChar* end = bytes(text) + text.size();
  for (const OnigUChar* at = bytes(text); at < end; at = bytes(text) + region->end[0]) {
    if (onig_search(regex.get(), bytes(text), end, at, end, region.get(), ONIG_OPTION_NONE) < 0) break;
    const auto begin = static_cast<std::size_t>(region->beg[0]);
    words.push_back(text.substr(begin, static_cast<std::size_t>(region->end[0]) - begin));
  }
  return words;
}

}  // namespace kvant::tokenizer
#endif
