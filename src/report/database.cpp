#include "report/database.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/error.h"
#include "report/sqlite.h"

namespace kvant::report {
namespace {

using nlohmann::ordered_json;

constexpr std::int64_t kSchemaVersion = 1;
constexpr std::int64_t kMaxIndex = 1 << 20;    ///< of layers, heads and channels
constexpr std::size_t kMaxChannels = 1 << 21;  ///< of all models and texts
constexpr std::size_t kMaxGaps = 1 << 20;      ///< places in lists of metrics that no value is for
constexpr const char* kTables[] = {"model", "corpus", "plan", "plan_head", "channel", "cell", "metric", "retrieval"};

/// `value` with so many significant digits: a page needs no more, and each one counts in its size.
double rounded(double value, int digits) { return std::strtod(fmt::format("{:.{}g}", value, digits).c_str(), nullptr); }

ordered_json real(const Rows& rows, int column, int digits) {
  const auto value = rows.real(column);
  return value ? ordered_json(rounded(*value, digits)) : ordered_json(nullptr);
}

ordered_json integer(const Rows& rows, int column) {
  const auto value = rows.integer(column);
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json text(const Rows& rows, int column) {
  return rows.is_null(column) ? ordered_json(nullptr) : ordered_json(std::string(rows.text(column)));
}

/// One column of a query by its kind: i(nteger), r(eal) or t(ext).
ordered_json value(const Rows& rows, int column, char kind) {
  constexpr int kDigits = 6;
  return kind == 'i' ? integer(rows, column) : kind == 'r' ? real(rows, column, kDigits) : text(rows, column);
}

/// The rows of a query as objects that go by the names of its columns; `kinds` has a letter for each.
ordered_json objects(const Database& database, std::string_view query, std::string_view kinds) {
  ordered_json list = ordered_json::array();
  Rows rows(database, query);
  while (rows.next()) {
    ordered_json object = ordered_json::object();
    for (int i = 0; i < rows.columns(); ++i) {
      object[std::string(rows.name(i))] = value(rows, i, kinds[static_cast<std::size_t>(i)]);
    }
    list.push_back(std::move(object));
  }
  return list;
}

/// The same as arrays, without their first column: that is the id of the object that each array belongs to.
std::map<std::int64_t, ordered_json> arrays(const Database& database, std::string_view query, std::string_view kinds) {
  std::map<std::int64_t, ordered_json> lists;
  Rows rows(database, query);
  while (rows.next()) {
    ordered_json array = ordered_json::array();
    for (int i = 1; i < rows.columns(); ++i) array.push_back(value(rows, i, kinds[static_cast<std::size_t>(i)]));
    const auto list = lists.try_emplace(rows.integer(0).value_or(-1), ordered_json::array()).first;
    list->second.push_back(std::move(array));
  }
  return lists;
}

/// Puts each list under `name` into the object with its id.
void attach(ordered_json& objects, const char* name, std::map<std::int64_t, ordered_json> lists) {
  for (ordered_json& object : objects) {
    if (!object["id"].is_number_integer()) continue;
    const auto list = lists.find(object["id"].get<std::int64_t>());
    if (list != lists.end()) object[name] = std::move(list->second);
  }
}

void check_schema(const Database& database) {
  Rows version(database, "PRAGMA user_version");
  const std::int64_t found = version.next() ? version.integer(0).value_or(0) : 0;
  std::size_t tables = 0;
  Rows names(database, "SELECT name FROM sqlite_schema WHERE type = 'table'");
  while (names.next()) {
    for (const char* table : kTables) tables += names.text(0) == table ? 1 : 0;
  }
  KVANT_CHECK(tables > 0, ErrorCode::format, "{}: not a database of kvant sweep: it has none of its tables",
              database.path());
  KVANT_CHECK(found == kSchemaVersion, ErrorCode::format, "{}: version {} of the tables, expected {}", database.path(),
              found, kSchemaVersion);
  KVANT_CHECK(tables == std::size(kTables), ErrorCode::format, "{}: {} of the {} tables of kvant sweep",
              database.path(), tables, std::size(kTables));
}

/// Names of all metrics, the most frequent first: what a scope does not have then stands at the end of its list.
std::vector<std::string> metric_names(const Database& database) {
  std::vector<std::string> names;
  std::set<std::string, std::less<>> seen;  // as text and as bytes, which SQLite tells apart
  Rows rows(database, "SELECT name FROM metric GROUP BY name ORDER BY count(*) DESC, name");
  while (rows.next()) {
    if (seen.emplace(rows.text(0)).second) names.emplace_back(rows.text(0));
  }
  return names;
}

/// {scope: [value of the first name, ...]} of each cell.
std::map<std::int64_t, ordered_json> metrics(const Database& database, const std::vector<std::string>& names) {
  constexpr int kDigits = 6;
  std::map<std::string, std::size_t, std::less<>> places;
  for (const std::string& name : names) places.emplace(name, places.size());
  std::map<std::int64_t, ordered_json> cells;
  std::size_t gaps = 0;
  // In the order of the names, so that lists grow at their end.
  Rows rows(database,
            "SELECT cell_id, scope, name, value FROM metric JOIN (SELECT name, count(*) AS uses FROM metric GROUP BY "
            "name) USING (name) ORDER BY cell_id, scope, uses DESC, name");
  while (rows.next()) {
    const auto cell = cells.try_emplace(rows.integer(0).value_or(-1), ordered_json::object()).first;
    ordered_json& list = cell->second[std::string(rows.text(1))];
    const std::size_t place = places.find(rows.text(2))->second;
    gaps += place - std::min(list.size(), place);
    KVANT_CHECK(gaps <= kMaxGaps, ErrorCode::out_of_memory, "{}: table metric: too many names for its values",
                database.path());
    while (list.size() <= place) list.push_back(nullptr);
    list[place] = real(rows, 3, kDigits);
  }
  return cells;
}

/// An index of layer, head or channel, which must be below `end` where that is known.
std::size_t index(const Database& database, const Rows& rows, int column, std::int64_t end) {
  const std::int64_t found = rows.integer(column).value_or(-1);
  KVANT_CHECK(found >= 0 && found < end, ErrorCode::format, "{}: table channel: {} {}, expected 0 to {}",
              database.path(), rows.name(column), printable(rows.text(column)), end - 1);
  return static_cast<std::size_t>(found);
}

/// Mean and deviation of the key channels of one model on one text, as lists over layer, head and channel.
ordered_json channel_map(const Database& database, std::int64_t model, std::int64_t corpus, std::size_t layers,
                         std::size_t heads, std::size_t channels) {
  constexpr int kDigits = 4;
  const ordered_json nothing(layers * heads * channels, nullptr);
  ordered_json mean = nothing, deviation = nothing;
  Rows rows(database, fmt::format("SELECT layer, kv_head, channel, mean, std FROM channel "
                                  "WHERE model_id = {} AND corpus_id = {}",
                                  model, corpus));
  while (rows.next()) {
    const std::size_t place = (index(database, rows, 0, static_cast<std::int64_t>(layers)) * heads +
                               index(database, rows, 1, static_cast<std::int64_t>(heads))) *
                                  channels +
                              index(database, rows, 2, static_cast<std::int64_t>(channels));
    mean[place] = real(rows, 3, kDigits);
    deviation[place] = real(rows, 4, kDigits);
  }
  return {{"model_id", model},    {"corpus_id", corpus}, {"layers", layers}, {"kv_heads", heads},
          {"channels", channels}, {"mean", mean},        {"std", deviation}};
}

ordered_json channel_maps(const Database& database) {
  ordered_json maps = ordered_json::array();
  std::size_t left = kMaxChannels;
  Rows rows(database,
            "SELECT model_id, corpus_id, max(layer) AS layer, max(kv_head) AS kv_head, max(channel) AS channel "
            "FROM channel GROUP BY model_id, corpus_id ORDER BY model_id, corpus_id");
  while (rows.next()) {
    const std::size_t layers = index(database, rows, 2, kMaxIndex) + 1, heads = index(database, rows, 3, kMaxIndex) + 1,
                      channels = index(database, rows, 4, kMaxIndex) + 1;
    KVANT_CHECK(heads <= left / layers && channels <= left / (layers * heads), ErrorCode::out_of_memory,
                "{}: table channel: {} layers of {} heads of {} channels, over {} in all", database.path(), layers,
                heads, channels, kMaxChannels);
    left -= layers * heads * channels;
    maps.push_back(
        channel_map(database, rows.integer(0).value_or(-1), rows.integer(1).value_or(-1), layers, heads, channels));
  }
  return maps;
}

}  // namespace

std::string read_document(const std::string& path, std::string_view version) {
  const Database database(path);
  check_schema(database);
  const std::vector<std::string> names = metric_names(database);
  ordered_json plans = objects(database, "SELECT id, hash, file, bytes FROM plan ORDER BY id", "itti");
  attach(plans, "heads",
         arrays(database,
                "SELECT plan_id, side, layer, kv_head, bits, parts FROM plan_head "
                "ORDER BY plan_id, side, layer, kv_head",
                "itiirt"));
  ordered_json cells = objects(database,
                               "SELECT id, kind, model_id, corpus_id, plan_id, k, v, context, chunks, reference, "
                               "precision, version, command, tokens, k_bpv, v_bpv, cache_bytes, constant_bytes, "
                               "seconds, finished FROM cell ORDER BY id",
                               "itiiittiittttirriirt");
  attach(cells, "metrics", metrics(database, names));
  attach(cells, "retrieval",
         arrays(database,
                "SELECT cell_id, keys, depth, trials, found, low, high FROM retrieval ORDER BY cell_id, keys, depth",
                "iiriirr"));
  const ordered_json document = {
      {"version", version},
      {"database", std::filesystem::path(path).filename().string()},
      {"models", objects(database,
                         "SELECT id, hash, file, name, architecture, weights, bytes, layers, q_heads, kv_heads, "
                         "head_dim FROM model ORDER BY id",
                         "itttttiiiii")},
      {"corpora", objects(database, "SELECT id, hash, file, bytes FROM corpus ORDER BY id", "itti")},
      {"plans", plans},
      {"metric_names", names},
      {"cells", cells},
      {"channels", channel_maps(database)}};
  return document.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace kvant::report
