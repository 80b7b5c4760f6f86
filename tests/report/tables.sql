-- The tables of docs/sweep.md without their constraints, so that tests can put anything into them.
PRAGMA journal_mode = WAL;
PRAGMA user_version = 1;
CREATE TABLE model(id INTEGER PRIMARY KEY, hash TEXT UNIQUE, file TEXT, name TEXT, architecture TEXT, weights TEXT,
  bytes INTEGER, layers INTEGER, q_heads INTEGER, kv_heads INTEGER, head_dim INTEGER);
CREATE TABLE corpus(id INTEGER PRIMARY KEY, hash TEXT UNIQUE, file TEXT, bytes INTEGER);
CREATE TABLE plan(id INTEGER PRIMARY KEY, hash TEXT UNIQUE, file TEXT, bytes INTEGER);
CREATE TABLE plan_head(plan_id INTEGER, side TEXT, layer INTEGER, kv_head INTEGER, bits REAL, parts TEXT,
  PRIMARY KEY(plan_id, side, layer, kv_head));
CREATE TABLE channel(model_id INTEGER, corpus_id INTEGER, layer INTEGER, kv_head INTEGER, channel INTEGER, mean REAL,
  std REAL, PRIMARY KEY(model_id, corpus_id, layer, kv_head, channel));
CREATE TABLE cell(id INTEGER PRIMARY KEY, key TEXT UNIQUE, kind TEXT, model_id INTEGER, corpus_id INTEGER,
  plan_id INTEGER, k TEXT, v TEXT, context INTEGER, chunks INTEGER, reference TEXT, precision TEXT, version TEXT,
  command TEXT, tokens INTEGER, k_bpv REAL, v_bpv REAL, cache_bytes INTEGER, constant_bytes INTEGER, seconds REAL,
  finished TEXT);
CREATE TABLE metric(cell_id INTEGER, scope TEXT, name TEXT, value REAL, PRIMARY KEY(cell_id, scope, name));
CREATE TABLE retrieval(cell_id INTEGER, keys INTEGER, depth REAL, trials INTEGER, found INTEGER, low REAL, high REAL,
  PRIMARY KEY(cell_id, keys, depth));
CREATE TABLE claim(unit TEXT PRIMARY KEY, owner TEXT, heartbeat TEXT);
