#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace kvant::tokenizer {

/// Words of `text` by a pattern as a model's tokenizer.json has it, from Oniguruma, the regex engine that reads it
/// there. For tests, where KVANT_HAS_ONIGURUMA is defined. (A unit of its own: <oniguruma.h> and GoogleTest collide.)
std::vector<std::string> oniguruma_words(std::string_view pattern, const std::string& text);

}  // namespace kvant::tokenizer
