#include "eval/cache_pair.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace kvant::eval {
namespace {

using codec::PageSide;

constexpr std::string_view kPlanPrefix = "plan:";

/// Whether what follows a slash is a type and not the rest of a file's name.
bool is_value_type(std::string_view text) {
  if (text.starts_with("plan,")) return true;
  const std::string_view name = text.substr(0, text.find_first_of(",/"));
  try {
    codec::parse_cache_spec(name, PageSide::value);
    return true;
  } catch (const Error&) {
    return false;
  }
}

CachePair parse_pair(std::string_view text) {
  if (text.starts_with(kPlanPrefix)) return plan_pair(std::string(text.substr(kPlanPrefix.size())));
  for (std::size_t slash = text.find('/'); slash != text.npos; slash = text.find('/', slash + 1)) {
    const std::string_view v = text.substr(slash + 1);
    if (!is_value_type(v)) continue;
    return {codec::parse_cache_spec(text.substr(0, slash), PageSide::key), codec::parse_cache_spec(v, PageSide::value)};
  }
  return {codec::parse_cache_spec(text, PageSide::key), {}};
}

/// One side of a plan's cache.
codec::CacheSpec side_of(const std::string& file, bool coded, std::size_t recent, const std::string& type,
                         PageSide side) {
  if (!coded) return codec::parse_cache_spec(type, side);
  codec::CacheSpec spec;
  spec.coding = codec::CacheSpec::Coding::plan;
  spec.anchor = codec::Anchor::mean;
  spec.plan = file;
  spec.recent = recent;
  return spec;
}

}  // namespace

CachePair plan_pair(const std::string& file) {
  const codec::Plan plan = codec::read_plan(file);
  const bool keys = !plan.codes.empty() && !plan.codes.front().keys.empty();
  const bool values = !plan.codes.empty() && !plan.codes.front().values.empty();
  CachePair pair;
  pair.k = side_of(file, keys, plan.recent, plan.k_type, PageSide::key);
  if (plan.layouts) {
    pair.k.coding = codec::CacheSpec::Coding::flex;
    pair.k.plan = file;
  }
  pair.v = side_of(file, values, plan.recent, plan.v_type, PageSide::value);
  KVANT_CHECK(pair != CachePair{}, ErrorCode::invalid_argument,
              "{}: has statistics only, no codes: give calibrate --bits or --tiers, or a type with plan=FILE", file);
  return pair;
}

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

const std::string& plan_file(const CachePair& pair) { return pair.k.plan.empty() ? pair.v.plan : pair.k.plan; }

std::string to_string(const CachePair& pair) {
  return fmt::format("{}/{}", codec::to_string(pair.k, PageSide::key), codec::to_string(pair.v, PageSide::value));
}

}  // namespace kvant::eval
