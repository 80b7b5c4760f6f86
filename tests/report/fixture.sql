-- Made-up results for the tests of kvant report: the shape of real ones, values from formulas. Goes into tables.sql.
BEGIN;
INSERT INTO model VALUES
  (1, 'b7d1f2a09c4e5563', 'models/standin-a-q8_0.gguf', 'standin-a', 'qwen2', 'Q8_0', 5900000, 6, 4, 2, 64),
  (2, '90aa3c1de77b2f04', 'models/qwen2.5-0.5b-instruct-q8_0.gguf', 'Qwen2.5 0.5B Instruct', 'qwen2', 'Q8_0',
   531068096, 24, 14, 2, 64);
INSERT INTO corpus VALUES
  (1, '11f0c2d3a4b5e6f7', 'corpora/wiki.test.raw', 1290590),
  (2, '77e6d5c4b3a29180', 'corpora/korean.txt', 482113);
INSERT INTO plan VALUES
  (1, 'c0ffee0123456789', 'plans/standin-3bit.gguf', 401408),
  (2, 'deadbeef98765432', 'plans/qwen-3bit.gguf', 1605632);

-- Bits of the heads: between 2 and 6 for keys, 2 and 4 for values.
WITH RECURSIVE layer(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM layer WHERE n < 23),
  head(n) AS (VALUES (0), (1)), side(s, top) AS (VALUES ('k', 5), ('v', 3))
INSERT INTO plan_head
  SELECT plan.id, s, layer.n, head.n, 2 + (layer.n * 7 + head.n * 3 + plan.id) % top + 0.17,
    printf('lm%d*%d,lm%d*%d', 2 + (layer.n * 7 + head.n * 3 + plan.id) % top, 32,
           2 + (layer.n * 7 + head.n * 3 + plan.id) % top, 32)
  FROM plan, layer, head, side WHERE layer.n < CASE plan.id WHEN 1 THEN 6 ELSE 24 END;

-- Key channels: two huge ones a head, the rest around 1.
WITH RECURSIVE layer(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM layer WHERE n < 23),
  channel_n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM channel_n WHERE n < 63), head(n) AS (VALUES (0), (1))
INSERT INTO channel
  SELECT model.id, 1, layer.n, head.n, channel_n.n,
    CASE WHEN channel_n.n % 32 = (layer.n * 5 + head.n * 11) % 32
      THEN (CASE WHEN (layer.n + head.n) % 2 THEN -1 ELSE 1 END) * (20.0 + 150.0 / (1 + layer.n))
      ELSE ((channel_n.n * 37 + layer.n * 11 + head.n * 5) % 41 - 20) / 15.0 END,
    0.4 + ((channel_n.n * 13 + layer.n * 7) % 17) / 12.0
  FROM model, layer, head, channel_n WHERE layer.n < model.layers;

-- Caches: bits of K and V, and the divergence they cost at 512 tokens of English.
CREATE TEMP TABLE cache(n INTEGER PRIMARY KEY, k TEXT, v TEXT, k_bpv REAL, v_bpv REAL, kld REAL, plan INTEGER);
INSERT INTO cache(k, v, k_bpv, v_bpv, kld, plan) VALUES
  ('f16', 'f16', 16, 16, 0, 0),
  ('q8_0', 'q8_0', 8.5, 8.5, 0.0047, 0),
  ('q5_1', 'q5_1', 6, 6, 0.081, 0),
  ('q4_0', 'q4_0', 4.5, 4.5, 0.436, 0),
  ('rot-q4_0', 'rot-q4_0', 4.5, 4.5, 0.421, 0),
  ('q8_0', 'q4_0', 8.5, 4.5, 0.0092, 0),
  ('flex:4:8:60:4:3', 'q8_0', 6.5, 8.5, 0.0375, 0),
  ('lm5', 'lm5', 5.17, 5.17, 0.00024, 0),
  ('lm4', 'lm4', 4.17, 4.17, 0.0009, 0),
  ('lm3', 'lm3', 3.17, 3.17, 0.0037, 0),
  ('lm2', 'lm2', 2.17, 2.17, 0.019, 0),
  ('lm4', 'lm3', 4.17, 3.17, 0.0021, 0),
  ('uni4', 'uni4', 4.25, 4.25, 0.0014, 0),
  ('tcq3', 'tcq3', 3.14, 3.14, 0.0029, 0),
  ('plan', 'plan', 3.5, 2.58, 0.0016, 1);

CREATE TEMP TABLE setting(kind TEXT, model INTEGER, corpus INTEGER, context INTEGER, factor REAL);
INSERT INTO setting
  SELECT 'compare', model.id, corpus.id, c.column1, (1 + 0.35 * model.id) * (1 + 0.6 * (corpus.id - 1)) * c.column2
  FROM model, corpus, (VALUES (512, 0.8), (2048, 1.0), (8192, 1.4)) AS c;
INSERT INTO setting VALUES ('decode', 1, 1, 512, 1.2), ('decode', 1, 1, 2048, 1.5);

INSERT INTO cell(key, kind, model_id, corpus_id, plan_id, k, v, context, chunks, reference, precision, version, command,
    tokens, k_bpv, v_bpv, cache_bytes, constant_bytes, seconds, finished)
  SELECT printf('%s %d %d %d %s %s', kind, model, corpus, context, k, v), kind, model, corpus, nullif(plan * model, 0),
    CASE plan WHEN 0 THEN k ELSE 'plan:' || (SELECT file FROM plan WHERE id = model) END,
    CASE plan WHEN 0 THEN v ELSE 'plan:' || (SELECT file FROM plan WHERE id = model) END, context, 16384 / context, 'f16',
    'reference', '0.1.0',
    printf('kvant eval -m %s -f %s -c %d --chunks %d --cache %s/%s%s --json', (SELECT file FROM model WHERE id = model),
           (SELECT file FROM corpus WHERE id = corpus), context, 16384 / context, k, v,
           CASE kind WHEN 'decode' THEN ' --decode' ELSE '' END),
    16384 - 16384 / context, k_bpv, v_bpv,
    CAST((k_bpv + v_bpv) / 8 * context * (SELECT layers * kv_heads * head_dim FROM model WHERE id = model) AS INTEGER),
    CASE WHEN plan THEN 98304 ELSE 0 END, context / 100.0 + n, printf('2026-11-2%dT10:%02d:00Z', model, n)
  FROM setting, cache ORDER BY kind, model, corpus, context, n;

-- Metrics of divergence; a wobble of up to 10 % so that nothing lies on a line.
CREATE TEMP TABLE quality AS
  SELECT cell.id AS id, cell.context AS context, cell.tokens AS tokens,
    cache.kld * factor * (1 + 0.1 * ((cell.id * 7919) % 101 - 50) / 50.0) AS kld
  FROM cell JOIN setting ON setting.kind = cell.kind AND setting.model = model_id AND setting.corpus = corpus_id
    AND setting.context = cell.context
  JOIN cache ON cell.key = printf('%s %d %d %d %s %s', cell.kind, model_id, corpus_id, cell.context, cache.k, cache.v);

WITH scope(name, factor) AS (VALUES ('all', 1.0), ('last_quarter', 1.2))
INSERT INTO metric
  SELECT id, scope.name, m.column1,
    CASE m.column1
      WHEN 'tokens' THEN tokens / (CASE scope.name WHEN 'all' THEN 1 ELSE 4 END)
      WHEN 'kld_mean' THEN kld * scope.factor
      WHEN 'kld_se' THEN kld * scope.factor * 0.04
      WHEN 'top1' THEN 1 - min(0.5, 0.35 * sqrt(kld))
      WHEN 'top1_lo' THEN 1 - min(0.5, 0.36 * sqrt(kld))
      WHEN 'top1_hi' THEN 1 - min(0.5, 0.34 * sqrt(kld))
      WHEN 'rms_probability' THEN 0.2 * sqrt(kld)
      WHEN 'ln_ppl_ratio' THEN 0.6 * kld
      WHEN 'ppl_ratio' THEN exp(0.6 * kld)
      WHEN 'ppl_ratio_lo' THEN exp(0.6 * kld - 0.05 * sqrt(kld))
      WHEN 'ppl_ratio_hi' THEN exp(0.6 * kld + 0.05 * sqrt(kld))
      ELSE kld * scope.factor * m.column2 END
  FROM quality, scope, (VALUES ('tokens', 0), ('kld_mean', 0), ('kld_se', 0), ('kld_median', 0.3), ('kld_p90', 2.4),
    ('kld_p95', 4.1), ('kld_p99', 10.5), ('kld_p999', 32.0), ('kld_max', 120.0), ('top1', 0), ('top1_lo', 0),
    ('top1_hi', 0), ('rms_probability', 0), ('ln_ppl_ratio', 0), ('ppl_ratio', 0), ('ppl_ratio_lo', 0),
    ('ppl_ratio_hi', 0)) AS m;
INSERT INTO metric SELECT id, 'all', 'perplexity', 8.37 * exp(0.6 * kld) FROM quality;
INSERT INTO metric SELECT id, 'all', 'reference_perplexity', 8.37 FROM quality;
WITH RECURSIVE part(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM part WHERE n < 7)
INSERT INTO metric
  SELECT id, printf('positions:%d-%d', n * context / 8, (n + 1) * context / 8), m.column1,
    kld * (0.5 + n / 7.0) * m.column2
  FROM quality, part, (VALUES ('kld_mean', 1.0), ('kld_se', 0.08)) AS m;

-- Retrieval: four caches over three contexts, five depths, one and four keys.
INSERT INTO cell(key, kind, model_id, corpus_id, plan_id, k, v, context, chunks, reference, precision, version, command,
    tokens, k_bpv, v_bpv, cache_bytes, constant_bytes, seconds, finished)
  SELECT printf('retrieval %s %s %d', k, v, c.column1), 'retrieval', 2, 1, NULL, k, v, c.column1, 20, NULL, 'fast',
    '0.1.0', printf('kvant retrieval -m models/qwen2.5-0.5b-instruct-q8_0.gguf -f corpora/wiki.test.raw -c %d '
                    || '--cache %s/%s --trials 20 --json', c.column1, k, v),
    c.column1 * 200, k_bpv, v_bpv, CAST((k_bpv + v_bpv) / 8 * c.column1 * 3072 AS INTEGER), 0, c.column1 / 20.0,
    '2026-11-23T11:00:00Z'
  FROM cache, (VALUES (512), (2048), (8192)) AS c
  WHERE k || '/' || v IN ('f16/f16', 'q8_0/q8_0', 'q4_0/q4_0', 'lm3/lm3') ORDER BY n, c.column1;
WITH depth(d) AS (VALUES (0.0), (0.25), (0.5), (0.75), (1.0)), keys(n) AS (VALUES (1), (4)),
  score AS (SELECT cell.id AS id, keys.n AS n, depth.d AS d,
    max(0, 20 - (keys.n > 1) * 2 - (cell.k = 'q4_0') * CAST(cell.context / 700 AS INTEGER)
      - (cell.context > 4000) * CAST(12 * depth.d * (1 - depth.d) AS INTEGER)) AS found
    FROM cell, keys, depth WHERE kind = 'retrieval')
INSERT INTO retrieval
  SELECT id, n, d, 20, found,
    (found / 20.0 + 0.0960 - 1.96 * sqrt(found / 20.0 * (1 - found / 20.0) / 20 + 0.0024)) / 1.192,
    (found / 20.0 + 0.0960 + 1.96 * sqrt(found / 20.0 * (1 - found / 20.0) / 20 + 0.0024)) / 1.192 FROM score;

-- Agreement of greedy generations.
INSERT INTO cell(key, kind, model_id, corpus_id, plan_id, k, v, context, chunks, reference, precision, version, command,
    tokens, k_bpv, v_bpv, cache_bytes, constant_bytes, seconds, finished)
  SELECT printf('agreement %s %s', k, v), 'agreement', 2, 2, NULL, k, v, 512, 40, 'f16', 'fast', '0.1.0',
    printf('kvant agreement -m models/qwen2.5-0.5b-instruct-q8_0.gguf --prompts corpora/korean.txt --cache %s/%s -n 128 '
           || '--json', k, v),
    5120, k_bpv, v_bpv, CAST((k_bpv + v_bpv) / 8 * 512 * 3072 AS INTEGER), 0, 60, '2026-11-23T12:00:00Z'
  FROM cache WHERE k || '/' || v IN ('q8_0/q8_0', 'q4_0/q4_0', 'lm4/lm4', 'lm3/lm3') ORDER BY n;
INSERT INTO metric
  SELECT cell.id, 'all', m.column1, m.column2 / (1 + cache.kld * 8) + m.column3 * cache.kld
  FROM cell JOIN cache ON cell.key = printf('agreement %s %s', cache.k, cache.v),
    (VALUES ('prompts', 40, 0), ('agreement_length', 118, 0), ('agreement_length_se', 4, 0), ('identical_lo', 0.8, 0),
      ('identical_hi', 0.95, 0), ('identical', 0.9, 0), ('script_errors', 0, 0.02)) AS m;
UPDATE metric SET value = 40 WHERE name = 'prompts';
COMMIT;
