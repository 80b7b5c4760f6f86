#include "rows.h"

#include <sqlite3.h>

#include "base/error.h"

namespace kvant {

std::vector<std::string> query(const std::string& database, const std::string& sql) {
  std::vector<std::string> rows;
  sqlite3* handle = nullptr;
  int status = sqlite3_open_v2(database.c_str(), &handle, SQLITE_OPEN_READWRITE, nullptr);
  sqlite3_busy_timeout(handle, 10000);
  const auto add = [](void* to, int columns, char** values, char**) {
    std::string row;
    for (int i = 0; i < columns; ++i) {
      row += (i == 0 ? "" : "|") + std::string(values[i] == nullptr ? "NULL" : values[i]);
    }
    static_cast<std::vector<std::string>*>(to)->push_back(row);
    return 0;
  };
  if (status == SQLITE_OK) status = sqlite3_exec(handle, sql.c_str(), add, &rows, nullptr);
  const std::string reason = sqlite3_errmsg(handle);
  sqlite3_close(handle);
  KVANT_CHECK(status == SQLITE_OK, ErrorCode::io, "{}: {}: {}", database, reason, sql);
  return rows;
}

std::vector<std::string> all_rows(const std::string& database) {
  const char* const queries[] = {
      "SELECT 'model', hash, file, name, architecture, weights, bytes, layers, q_heads, kv_heads, head_dim FROM model "
      "ORDER BY hash",
      "SELECT 'corpus', hash, file, bytes FROM corpus ORDER BY hash",
      "SELECT 'plan', hash, file, bytes FROM plan ORDER BY hash",
      "SELECT 'plan_head', hash, side, layer, kv_head, bits, parts FROM plan_head JOIN plan ON plan.id = plan_id "
      "ORDER BY hash, side, layer, kv_head",
      "SELECT 'channel', model.hash, corpus.hash, layer, kv_head, channel, mean, std FROM channel "
      "JOIN model ON model.id = model_id JOIN corpus ON corpus.id = corpus_id "
      "ORDER BY model.hash, corpus.hash, layer, kv_head, channel",
      "SELECT 'cell', key, kind, model.hash, corpus.hash, plan.hash, k, v, context, chunks, reference, precision, "
      "version, command, tokens, k_bpv, v_bpv, cache_bytes, constant_bytes FROM cell "
      "JOIN model ON model.id = model_id JOIN corpus ON corpus.id = corpus_id LEFT JOIN plan ON plan.id = plan_id "
      "ORDER BY key",
      "SELECT 'metric', key, scope, name, printf('%!.17g', value) FROM metric JOIN cell ON id = cell_id "
      "ORDER BY key, scope, name",
      "SELECT 'retrieval', key, keys, depth, trials, found, low, high FROM retrieval JOIN cell ON id = cell_id "
      "ORDER BY key, keys, depth",
      "SELECT 'claim', unit FROM claim ORDER BY unit"};
  std::vector<std::string> all;
  for (const char* sql : queries) {
    const std::vector<std::string> rows = query(database, sql);
    all.insert(all.end(), rows.begin(), rows.end());
  }
  return all;
}

}  // namespace kvant
