#include "sweep/grid.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/file_io.h"
#include "eval/retrieval.h"

namespace kvant::sweep {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxContext = std::size_t{1} << 30;
constexpr std::size_t kMaxChunks = std::size_t{1} << 31;
constexpr std::size_t kMaxTogether = 1024;
constexpr std::size_t kMaxSeed = ~std::size_t{0};
constexpr int kMaxDepth = 4;  ///< of objects and lists in each other
constexpr std::string_view kPlan = "plan:";

/// One value of the grid with the name that errors give it.
struct Entry {
  const json& value;
  std::string name;  ///< "grid.json: caches[2]"
};

[[noreturn]] void refuse(const Entry& entry, const std::string& why) {
  fail(ErrorCode::invalid_argument, "{}: {}", entry.name, why);
}

/// A value as an error shows it.
std::string shown(const json& value) {
  return printable(value.dump(-1, ' ', true, json::error_handler_t::replace), 60);
}

std::string text_of(const Entry& entry) {
  if (!entry.value.is_string()) refuse(entry, fmt::format("{}, expected a text", shown(entry.value)));
  auto text = entry.value.get<std::string>();
  if (text.empty()) refuse(entry, "empty");
  if (text.find('\0') != std::string::npos) refuse(entry, fmt::format("{} holds a zero byte", shown(entry.value)));
  return text;
}

std::size_t count_of(const Entry& entry, std::size_t least, std::size_t most) {
  if (!entry.value.is_number_integer()) {
    refuse(entry, fmt::format("{}, expected a whole number", shown(entry.value)));
  }
  const bool negative = !entry.value.is_number_unsigned() && entry.value.get<std::int64_t>() < 0;
  const auto count = negative ? 0 : entry.value.get<std::uint64_t>();
  if (negative || count < least || count > most) {
    refuse(entry, fmt::format("{}, expected {} to {}", shown(entry.value), least, most));
  }
  return count;
}

std::string choice_of(const Entry& entry, std::span<const std::string_view> choices) {
  std::string text = text_of(entry);
  if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
    refuse(entry, fmt::format("{}, expected one of: {}", printable(text), fmt::join(choices, " ")));
  }
  return text;
}

/// The file that a name stands for.
NamedFile find_file(const std::string& name, const fs::path& folder, const std::string& entry) {
  NamedFile file{name, (folder / name).lexically_normal()};
  std::error_code error;
  const fs::file_status status = fs::status(file.path, error);
  KVANT_CHECK(fs::exists(status), ErrorCode::io, "{}: {}: no such file", entry, printable(file.path.string(), 200));
  KVANT_CHECK(fs::is_regular_file(status), ErrorCode::io, "{}: {}: not a file", entry,
              printable(file.path.string(), 200));
  KVANT_CHECK(::access(file.path.c_str(), R_OK) == 0, ErrorCode::io, "{}: {}: {}", entry,
              printable(file.path.string(), 200), std::strerror(errno));
  return file;
}

/// Parses with the keys of each object checked to stand once.
json parse_json(std::string_view text, const std::string& name) {
  std::vector<std::set<std::string>> objects;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    KVANT_CHECK(depth <= kMaxDepth, ErrorCode::format, "{}: lists and objects in each other over {} deep", name,
                kMaxDepth);
    if (event == json::parse_event_t::object_start) objects.emplace_back();
    if (event == json::parse_event_t::object_end) objects.pop_back();
    if (event == json::parse_event_t::key) {
      const auto key = value.get<std::string>();
      KVANT_CHECK(objects.back().insert(key).second, ErrorCode::invalid_argument, "{}: key {} stands twice", name,
                  printable(key));
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& e) {
    const auto* error = dynamic_cast<const json::parse_error*>(&e);
    const std::size_t at = std::min(error == nullptr || error->byte == 0 ? 0 : error->byte - 1, text.size());
    const std::string_view before = text.substr(0, at);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const std::size_t column = at - (before.rfind('\n') + 1) + 1;  // npos + 1 is 0
    fail(ErrorCode::format, "{}: no valid JSON at line {}, column {}", name, line, column);
  }
}

bool flag_of(const Entry& entry) {
  if (!entry.value.is_boolean()) refuse(entry, fmt::format("{}, expected true or false", shown(entry.value)));
  return entry.value.get<bool>();
}

double percent_of(const Entry& entry) {
  const double percent = entry.value.is_number() ? entry.value.get<double>() : -1;
  if (!(percent >= 0 && percent <= 100)) refuse(entry, fmt::format("{}, expected 0 to 100", shown(entry.value)));
  return percent;
}

template <class T>
bool same(const T& a, const T& b) {
  return a == b;
}
bool same(const NamedFile& a, const NamedFile& b) { return a.path == b.path; }
bool same(const GridCache& a, const GridCache& b) { return a.pair == b.pair; }

/// An object that has some of these keys and no others.
class Object {
 public:
  Object(const Entry& whole, std::span<const std::string_view> keys) : object_(whole.value), name_(whole.name) {
    if (!object_.is_object()) refuse(whole, fmt::format("{}, expected an object", shown(object_)));
    for (const auto& [key, value] : object_.items()) {
      KVANT_CHECK(std::find(keys.begin(), keys.end(), key) != keys.end(), ErrorCode::invalid_argument,
                  "{}: unknown key {}; the keys are {}", name_, printable(key), fmt::join(keys, " "));
    }
  }

  bool has(const char* key) const { return object_.contains(key); }
  Entry at(const std::string& key) const {
    const auto found = object_.find(key);
    KVANT_CHECK(found != object_.end(), ErrorCode::invalid_argument, "{}: key {} is missing", name_, key);
    return {*found, fmt::format("{}: {}", name_, key)};
  }
  /// Reads a value where there is one.
  template <class T, class Read>
  void get(const char* key, T& value, Read&& read) const {
    if (has(key)) value = read(at(key));
  }

 private:
  const json& object_;
  std::string name_;
};

/// The entries of a list, each of them once.
template <class Read>
auto list_of(const Entry& whole, Read&& read) {
  using T = decltype(read(whole));
  if (!whole.value.is_array()) refuse(whole, fmt::format("{}, expected a list", shown(whole.value)));
  if (whole.value.empty()) refuse(whole, "the list is empty");
  std::vector<T> items;
  for (std::size_t i = 0; i < whole.value.size(); ++i) {
    const Entry entry{whole.value[i], fmt::format("{}[{}]", whole.name, i)};
    T item = read(entry);
    const auto equal = std::find_if(items.begin(), items.end(), [&](const T& other) { return same(other, item); });
    if (equal != items.end()) {
      refuse(entry, fmt::format("{} is the same as number {}", shown(entry.value), equal - items.begin()));
    }
    items.push_back(std::move(item));
  }
  return items;
}

std::vector<NamedFile> files_of(const Entry& whole, const fs::path& folder) {
  return list_of(whole, [&](const Entry& entry) { return find_file(text_of(entry), folder, entry.name); });
}

/// Files that the command line names.
std::vector<NamedFile> given_files(const std::vector<std::string>& names, const char* option) {
  std::vector<NamedFile> files;
  files.reserve(names.size());
  for (const std::string& name : names) files.push_back(find_file(name, "", option));
  return files;
}

/// Whether plan:FILE is this cache. A file of statistics alone is none.
bool stands_for(const std::string& plan, const eval::CachePair& pair) {
  try {
    return !plan.empty() && eval::plan_pair(plan) == pair;
  } catch (const Error&) {
    return false;
  }
}

/// A cache; the files of its specs are looked for.
GridCache cache_of(const Entry& entry, const fs::path& folder) {
  GridCache cache;
  cache.text = text_of(entry);
  try {
    if (cache.text.starts_with(kPlan)) {
      const NamedFile plan = find_file(cache.text.substr(kPlan.size()), folder, entry.name);
      cache.named = cache.pair = eval::plan_pair(plan.path.string());
      for (codec::CacheSpec* spec : {&cache.named.k, &cache.named.v}) {
        if (!spec->plan.empty()) spec->plan = plan.name;
      }
      return cache;
    }
    const std::vector<eval::CachePair> pairs = eval::parse_cache_list(cache.text);
    if (pairs.size() != 1) refuse(entry, fmt::format("{} caches, expected one", pairs.size()));
    cache.named = cache.pair = pairs.front();
  } catch (const Error& e) {
    if (std::string_view(e.what()).starts_with(entry.name)) throw;
    throw Error(e.code(), fmt::format("{}: {}", entry.name, e.what()));
  }
  for (codec::CacheSpec* spec : {&cache.pair.k, &cache.pair.v}) {
    for (std::string* file : {&spec->plan, &spec->permutations}) {
      if (!file->empty()) *file = find_file(*file, folder, entry.name).path.string();
    }
  }
  return cache;
}

/// A reader of counts within bounds.
auto count_in(std::size_t least, std::size_t most) {
  return [least, most](const Entry& entry) { return count_of(entry, least, most); };
}

auto choice_among(std::span<const std::string_view> choices) {
  return [choices](const Entry& entry) { return choice_of(entry, choices); };
}

GridRetrieval retrieval_of(const Entry& entry) {
  using Limits = eval::RetrievalOptions;
  constexpr std::string_view kKeys[] = {"depths", "keys", "values", "trials", "seed"};
  const Object object(entry, kKeys);
  GridRetrieval retrieval;
  object.get("depths", retrieval.depths, [](const Entry& whole) { return list_of(whole, percent_of); });
  object.get("keys", retrieval.keys, [](const Entry& whole) { return list_of(whole, count_in(1, Limits::kMostKeys)); });
  object.get("values", retrieval.values, count_in(1, Limits::kMostValues));
  object.get("trials", retrieval.trials, count_in(1, Limits::kMostTrials));
  object.get("seed", retrieval.seed, count_in(0, kMaxSeed));
  return retrieval;
}

GridAgreement agreement_of(const Entry& entry, const fs::path& folder) {
  constexpr std::string_view kKeys[] = {"prompts", "tokens"};
  const Object object(entry, kKeys);
  GridAgreement agreement;
  agreement.prompts = files_of(object.at("prompts"), folder);
  object.get("tokens", agreement.tokens, count_in(1, kMaxContext));
  return agreement;
}

Grid grid_of(const Entry& entry, const fs::path& folder, const GridFiles& instead) {
  constexpr std::string_view kKeys[] = {"models",    "texts",     "contexts", "caches",   "kinds",     "chunks",
                                        "reference", "precision", "channels", "together", "retrieval", "agreement"};
  constexpr std::string_view kKinds[] = {"compare", "decode", "retrieval", "agreement"};
  constexpr std::string_view kReferences[] = {"f16", "f32"}, kPrecisions[] = {"reference", "fast"};
  const Object object(entry, kKeys);
  Grid grid;
  grid.file = entry.name;
  grid.models = instead.models.empty() ? files_of(object.at("models"), folder) : given_files(instead.models, "--model");
  grid.texts = instead.texts.empty() ? files_of(object.at("texts"), folder) : given_files(instead.texts, "--file");
  grid.contexts = list_of(object.at("contexts"), count_in(3, kMaxContext));
  grid.caches = list_of(object.at("caches"), [&](const Entry& cache) { return cache_of(cache, folder); });
  object.get("kinds", grid.kinds, [&](const Entry& whole) { return list_of(whole, choice_among(kKinds)); });
  object.get("chunks", grid.chunks, count_in(0, kMaxChunks));
  object.get("reference", grid.reference, choice_among(kReferences));
  object.get("precision", grid.precision, choice_among(kPrecisions));
  object.get("channels", grid.channels, flag_of);
  object.get("together", grid.together, count_in(1, kMaxTogether));
  object.get("retrieval", grid.retrieval, retrieval_of);
  object.get("agreement", grid.agreement, [&](const Entry& whole) { return agreement_of(whole, folder); });
  const bool agrees = std::find(grid.kinds.begin(), grid.kinds.end(), "agreement") != grid.kinds.end();
  KVANT_CHECK(!agrees || object.has("agreement"), ErrorCode::invalid_argument,
              "{}: kind agreement needs key agreement, with its prompts", entry.name);
  return grid;
}

}  // namespace

GridCache grid_cache(const eval::CachePair& pair) {
  const std::string& plan = eval::plan_file(pair);
  return {stands_for(plan, pair) ? std::string(kPlan) + plan : eval::to_string(pair), pair, pair};
}

std::string side_text(const GridCache& cache, codec::PageSide side) {
  const codec::CacheSpec& spec = side == codec::PageSide::key ? cache.named.k : cache.named.v;
  const bool planned = cache.text.starts_with(kPlan) && spec.coding == codec::CacheSpec::Coding::plan;
  return planned ? cache.text : codec::to_string(spec, side);
}

Grid parse_grid(std::string_view json, const std::string& name, const fs::path& folder, const GridFiles& instead) {
  const auto document = parse_json(json, name);
  return grid_of({document, name}, folder, instead);
}

Grid read_grid(const std::string& path, const GridFiles& instead) {
  return parse_grid(read_text(path, kMaxFileBytes), path, fs::path(path).parent_path(), instead);
}

}  // namespace kvant::sweep
