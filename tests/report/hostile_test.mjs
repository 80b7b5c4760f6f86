// The page of databases that are empty, huge, or made to do harm.
import assert from "node:assert/strict";
import { statSync } from "node:fs";
import { test } from "node:test";
import { columnOf, makePage, openPage, picker, rowsOf } from "./browser.mjs";

async function withPage(path, use) {
  const { page, requests, complaints, close } = await openPage(path);
  try {
    await use(page);
    assert.deepEqual(requests, []);
    assert.deepEqual(complaints, []);
  } finally {
    await close();
  }
}

const EVIL = `</script><img src=x onerror="alert(1)"><!-- "'\u0026lt; \u202e\u2028 @KVANT_REPORT_DATA@ javascript:alert(2)`;
const sql = (text) => `'${text.replaceAll("'", "''")}'`;

test("text of the database is shown as text", () => withPage(makePage("evil", { sql: `
  INSERT INTO model VALUES (1, ${sql(EVIL)}, ${sql(EVIL)}, ${sql(EVIL)}, ${sql(EVIL)}, ${sql(EVIL)}, 1, 1, 1, 1, 2);
  INSERT INTO corpus VALUES (1, ${sql(EVIL)}, ${sql(EVIL)}, 1);
  INSERT INTO plan VALUES (1, ${sql(EVIL)}, ${sql(EVIL)}, 1);
  INSERT INTO plan_head VALUES (1, ${sql(EVIL)}, 0, 0, 2, ${sql(EVIL)}), (1, 'k', 0, 0, 2, ${sql(EVIL)});
  INSERT INTO channel VALUES (1, 1, 0, 0, 0, 1, 1);
  INSERT INTO cell VALUES
    (1, 'a', 'compare', 1, 1, 1, ${sql(EVIL)}, 'f16', 512, 1, ${sql(EVIL)}, ${sql(EVIL)}, ${sql(EVIL)}, ${sql(EVIL)}, 5, 4, 4, 1, 1, 1, ${sql(EVIL)}),
    (2, 'b', 'agreement', 1, 1, 1, ${sql(EVIL)}, 'f16', 512, 1, NULL, NULL, NULL, ${sql(EVIL)}, 5, 4, 4, 1, 1, 1, NULL),
    (3, 'c', 'compare', 1, 1, 1, '__proto__', 'constructor', 512, 1, NULL, NULL, NULL, 'x', 5, 4, 4, 1, 1, 1, NULL);
  INSERT INTO metric VALUES (1, 'all', 'kld_mean', 0.1), (1, 'all', 'kld_se', 0.01), (1, ${sql(EVIL)}, ${sql(EVIL)}, 1),
    (2, ${sql(EVIL)}, ${sql(EVIL)}, 1), (3, '__proto__', 'kld_mean', 1), (3, 'all', '__proto__', 1);
  INSERT INTO retrieval VALUES (2, 1, 0.5, 2, 1, 0, 1);` }), async (page) => {
  assert.equal(await page.locator("img").count(), 0);
  assert.equal(await page.locator("script").count(), 2);
  assert.equal((await page.locator("#commands pre").first().textContent()), EVIL);
  assert.equal((await columnOf(page.locator("#sources .table").first(), "Path"))[0], EVIL);
  assert.equal((await rowsOf(page.locator("#results-table"))).length, 3);
  assert.ok((await page.title()).startsWith("KV cache quality: </script>"));
  await page.locator("#agreement").getByRole("button", { name: "Copy as TSV" }).click();
  const tsv = await page.evaluate(() => navigator.clipboard.readText());
  assert.equal(tsv.trimEnd().split("\n").length, 2, "a text does not break its line");
}));

test("an empty database", () => withPage(makePage("empty", {}), async (page) => {
  assert.match(await page.locator("main").textContent(), /holds no finished measurement yet/);
  assert.equal(await page.locator("main > section:visible").count(), 1);
  assert.equal(await page.title(), "KV cache quality: empty.sqlite");
}));

test("rows that lack everything", () => withPage(makePage("holes", { sql: `
  INSERT INTO model(id) VALUES (1);
  INSERT INTO corpus(id) VALUES (1);
  INSERT INTO plan(id) VALUES (1);
  INSERT INTO plan_head VALUES (1, 'k', NULL, NULL, NULL, NULL), (1, 'k', 0, 0, 3, NULL);
  INSERT INTO cell(id, kind, model_id, corpus_id, context, k, v) VALUES (1, 'compare', 1, 1, 512, 'lm4', 'lm4'),
    (2, 'compare', 1, 9, NULL, NULL, NULL), (3, 'retrieval', 1, 1, 512, 'lm4', 'lm4'), (4, NULL, NULL, NULL, NULL, NULL, NULL),
    (5, 'agreement', 1, 1, NULL, NULL, NULL), (6, 'decode', 1, 1, 512, 'lm4', 'lm4');
  INSERT INTO metric VALUES (1, 'all', 'kld_mean', NULL), (6, 'all', 'kld_mean', 0), (6, 'positions:0-8', 'kld_mean', -1),
    (6, 'positions:8-16', 'kld_mean', 1), (6, 'positions:x-y', 'kld_mean', 1);
  INSERT INTO retrieval VALUES (3, 1, 0.5, 0, 0, 0, 1), (3, 1, NULL, 4, 4, NULL, NULL), (3, 2, 0.5, 4, 9, NULL, NULL);
  INSERT INTO channel VALUES (1, 1, 0, 0, 0, NULL, NULL), (1, 1, 0, 0, 3, 0, 0), (7, 1, 0, 0, 0, 1, 1);` }), async (page) => {
  assert.deepEqual(await columnOf(page.locator("#results-table"), "KLD mean"), ["– ± –"]);
  assert.match(await page.locator("#safe .answer").textContent(), /No cache smaller than f16 is safe everywhere/);
  await picker(page, "Fed").selectOption("decode");
  assert.deepEqual(await columnOf(page.locator("#results-table"), "KLD mean"), ["0 ± –"]);
}));

test("models of the same name are told apart", () => withPage(makePage("twins", { files: ["fixture.sql"], sql: `
  UPDATE model SET name = 'twin', weights = 'W' || id;` }), async (page) => {
  assert.deepEqual(await picker(page, "Model").locator("option").allTextContents(), ["twin (W1)", "twin (W2)"]);
}));

test("2,400 cells in one setting and over many are quick", async () => {
  const path = makePage("huge", { sql: `
    INSERT INTO model VALUES (1, 'a', 'm.gguf', 'M', 'qwen2', 'Q8_0', 1, 80, 64, 8, 128);
    INSERT INTO corpus VALUES (1, 'b', 't.txt', 1);
    WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2400)
    INSERT INTO cell SELECT i, i, 'compare', 1, 1, NULL, 'lm4,sinks=' || (i % 1200), 'lm4,recent=' || i,
      512 * (1 + (i > 1200) * (i % 12)), 10, 'f16', 'reference', '0.1.0', 'kvant eval --cache lm4,sinks=' || i, 5110,
      2 + (i % 400) / 100.0, 4, 1000 * i, 0, 1, '2026-01-31T12:00:00Z' FROM n;
    WITH names(name) AS (VALUES ('kld_mean'), ('kld_se'), ('kld_p99'), ('top1'), ('ppl_ratio'), ('ppl_ratio_lo'), ('ppl_ratio_hi'))
    INSERT INTO metric SELECT id, 'all', name, CASE name WHEN 'kld_mean' THEN 0.1 / k_bpv ELSE 0.001 END FROM cell, names;
    WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 81919)
    INSERT INTO channel SELECT 1, 1, i / 1024, i / 128 % 8, i % 128, i % 97 / 10.0, 1 FROM n;` });
  assert.ok(statSync(path).size < 4 << 20);
  await withPage(path, async (page) => {
    const table = page.locator("#results-table");
    const start = Date.now();
    await page.reload();
    const shown = Date.now() - start;
    assert.equal((await rowsOf(table)).length - 1, 500);
    const again = Date.now();
    await table.locator("thead button").first().click();
    console.log(`shown in ${shown} ms, sorted in ${Date.now() - again} ms`);
    // Seconds even on two busy cores; what grows with the square of the rows takes minutes.
    assert.ok(shown < 30000, `${shown} ms`);
    await picker(page, "Rows").selectOption("all");
    await table.getByRole("button", { name: "Copy as TSV" }).click();
    const tsv = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(tsv.trimEnd().split("\n").length - 1, 2400, "what is copied is everything");
    await table.getByRole("button", { name: "Show all 2,400 rows" }).click();
    assert.equal((await rowsOf(table)).length - 1, 2400);
  });
});
