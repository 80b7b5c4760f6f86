#pragma once
#include <string>
#include <string_view>

namespace kvant::tokenizer {

/// Unicode normalization form C of valid UTF-8 (UAX #15), in linear time.
std::string to_nfc(std::string_view text);

}  // namespace kvant::tokenizer
