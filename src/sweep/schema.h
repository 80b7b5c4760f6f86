#pragma once

namespace kvant::sweep {

/// The tables (docs/sweep.md tells what the columns mean).
inline constexpr const char* kSchema = R"(
CREATE TABLE model(
  id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, file TEXT NOT NULL, name TEXT NOT NULL,
  architecture TEXT NOT NULL, weights TEXT NOT NULL, bytes INTEGER NOT NULL, layers INTEGER NOT NULL,
  q_heads INTEGER NOT NULL, kv_heads INTEGER NOT NULL, head_dim INTEGER NOT NULL);
CREATE TABLE corpus(
  id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, file TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE plan(
  id INTEGER PRIMARY KEY, hash TEXT NOT NULL UNIQUE, file TEXT NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE plan_head(
  plan_id INTEGER NOT NULL REFERENCES plan(id), side TEXT NOT NULL CHECK (side IN ('k', 'v')),
  layer INTEGER NOT NULL, kv_head INTEGER NOT NULL, bits REAL NOT NULL, parts TEXT NOT NULL,
  PRIMARY KEY(plan_id, side, layer, kv_head)) WITHOUT ROWID;
CREATE TABLE channel(
  model_id INTEGER NOT NULL REFERENCES model(id), corpus_id INTEGER NOT NULL REFERENCES corpus(id),
  layer INTEGER NOT NULL, kv_head INTEGER NOT NULL, channel INTEGER NOT NULL, mean REAL NOT NULL, std REAL NOT NULL,
  PRIMARY KEY(model_id, corpus_id, layer, kv_head, channel)) WITHOUT ROWID;
CREATE TABLE cell(
  id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
  model_id INTEGER NOT NULL REFERENCES model(id), corpus_id INTEGER NOT NULL REFERENCES corpus(id),
  plan_id INTEGER REFERENCES plan(id), k TEXT NOT NULL, v TEXT NOT NULL, context INTEGER NOT NULL,
  chunks INTEGER NOT NULL, reference TEXT NOT NULL, precision TEXT NOT NULL, version TEXT NOT NULL,
  command TEXT NOT NULL, tokens INTEGER NOT NULL, k_bpv REAL NOT NULL, v_bpv REAL NOT NULL,
  cache_bytes INTEGER NOT NULL, constant_bytes INTEGER NOT NULL, seconds REAL NOT NULL, finished TEXT NOT NULL);
CREATE TABLE metric(
  cell_id INTEGER NOT NULL REFERENCES cell(id), scope TEXT NOT NULL, name TEXT NOT NULL, value REAL,
  PRIMARY KEY(cell_id, scope, name)) WITHOUT ROWID;
CREATE TABLE retrieval(
  cell_id INTEGER NOT NULL REFERENCES cell(id), keys INTEGER NOT NULL, depth REAL NOT NULL, trials INTEGER NOT NULL,
  found INTEGER NOT NULL, low REAL NOT NULL, high REAL NOT NULL, PRIMARY KEY(cell_id, keys, depth)) WITHOUT ROWID;
CREATE TABLE claim(
  unit TEXT PRIMARY KEY, owner TEXT NOT NULL, heartbeat TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = 1;
)";

}  // namespace kvant::sweep
