#include "eval/cache_pair.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace kvant::eval {
namespace {

using codec::PageSide;

bool is_value_type(std::string_view name) {
  try {
    codec::parse_cache_spec(name, PageSide::value);
    return true;
  } catch (const Error&) {
    return false;
  }
}

CachePair parse_pair(std::string_view text) {
  for (std::size_t slash = text.find('/'); slash != text.npos; slash = text.find('/', slash + 1)) {
    const std::string_view v = text.substr(slash + 1);
    if (!is_value_type(v.substr(0, v.find_first_of(",/")))) continue;
    return {codec::parse_cache_spec(text.substr(0, slash), PageSide::key), codec::parse_cache_spec(v, PageSide::value)};
  }
  return {codec::parse_cache_spec(text, PageSide::key), {}};
}

}  // namespace

std::vector<CachePair> parse_cache_list(std::string_view text) {
  std::vector<CachePair> pairs;
  for (std::size_t begin = 0; begin <= text.size();) {
    std::size_t end = std::min(text.find(',', begin), text.size());
    while (end < text.size()) {
      const std::size_t next = std::min(text.find(',', end + 1), text.size());
      if (text.substr(end + 1, next - end - 1).find('=') == text.npos) break;
      end = next;
    }
    pairs.push_back(parse_pair(text.substr(begin, end - begin)));
    begin = end + 1;
  }
  return pairs;
}

std::string to_string(const CachePair& pair) {
  return fmt::format("{}/{}", codec::to_string(pair.k, PageSide::key), codec::to_string(pair.v, PageSide::value));
}

}  // namespace kvant::eval
