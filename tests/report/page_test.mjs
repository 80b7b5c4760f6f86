// What the page says, of the results of fixture.sql.
import assert from "node:assert/strict";
import { before, test } from "node:test";
import { columnOf, makePage, number, openPage, picker, rowsOf } from "./browser.mjs";

let path;
before(() => {
  path = makePage("fixture", { files: ["fixture.sql"] });
});

/** Opens the page for one test, at the end of which it must have asked for nothing and complained of nothing. */
async function withPage(use, options) {
  const { page, requests, complaints, close } = await openPage(path, options);
  try {
    await use(page);
    assert.deepEqual(requests, []);
    assert.deepEqual(complaints, []);
  } finally {
    await close();
  }
}

const clipboard = (page) => page.evaluate(() => navigator.clipboard.readText());
const titles = (page) => page.locator("main > section:visible > h2").allTextContents();

/** Names, bits of K and V, and KLD at 512 tokens before the wobble, as fixture.sql has them. */
const CACHES = [["f16", 16, 16, 0], ["q8_0", 8.5, 8.5, 0.0047], ["q5_1", 6, 6, 0.081], ["q4_0", 4.5, 4.5, 0.436],
  ["rot-q4_0", 4.5, 4.5, 0.421], ["q8_0 / q4_0", 8.5, 4.5, 0.0092], ["flex:4:8:60:4:3 / q8_0", 6.5, 8.5, 0.0375],
  ["lm5", 5.17, 5.17, 0.00024], ["lm4", 4.17, 4.17, 0.0009], ["lm3", 3.17, 3.17, 0.0037], ["lm2", 2.17, 2.17, 0.019],
  ["lm4 / lm3", 4.17, 3.17, 0.0021], ["uni4", 4.25, 4.25, 0.0014], ["tcq3", 3.14, 3.14, 0.0029],
  ["plan standin-3bit", 3.5, 2.58, 0.0016]];
/** Mean KLD of the cache of this index in the first setting. */
const kldOf = (index) => CACHES[index][3] * 1.35 * 0.8 * (1 + (0.1 * ((((index + 1) * 7919) % 101) - 50)) / 50);
const close = (found, expected) => assert.ok(Math.abs(found - expected) <= 0.006 * Math.abs(expected), `${found}, expected ${expected}`);

test("the results table has the numbers of the database", () => withPage(async (page) => {
  const [head, ...rows] = await rowsOf(page.locator("#results-table"));
  assert.equal(rows.length, CACHES.length);
  const at = (row, title) => row[head.indexOf(title)];
  CACHES.forEach(([name, k, v], index) => {
    const row = rows.find((texts) => texts[0] === name);
    assert.ok(row, name);
    assert.equal(number(at(row, "K bits")), k);
    assert.equal(number(at(row, "V bits")), v);
    const [mean, error] = at(row, "KLD mean").split(" ± ").map(number);
    close(mean, kldOf(index));
    assert.ok(Math.abs(error - 0.04 * kldOf(index)) <= 0.03 * error);
    close(number(at(row, "p99.9")), 32 * kldOf(index));
    close(number(at(row, "last ¼ KLD")), 1.2 * kldOf(index));
    assert.ok(Math.abs(number(at(row, "PPL ratio [95 %]").split(" ")[0]) - Math.exp(0.6 * kldOf(index))) < 1e-4);
  });
  const lm4 = rows.find((texts) => texts[0] === "lm4");
  assert.equal(at(lm4, "KLD mean"), "0.00100 ± 4e\u22125");
  assert.equal(at(lm4, "top-1"), "98.89 %");
  assert.equal(at(lm4, "Cache size"), "400 KiB");
  assert.equal(at(lm4, "Constants"), "0 B");
  assert.equal(at(rows.find((row) => row[0] === "plan standin-3bit"), "Constants"), "96.0 KiB");
  assert.equal(at(lm4, "tokens"), "16,352");
}));

test("rows of all models, texts and contexts can be shown together", () => withPage(async (page) => {
  await picker(page, "Rows").selectOption({ label: "all models, texts and contexts" });
  const rows = await rowsOf(page.locator("#results-table"));
  assert.equal(rows.length - 1, 15 * (2 * 2 * 3 + 2));
  assert.deepEqual([...new Set(await columnOf(page.locator("#results-table"), "Model"))].sort(), ["Qwen2.5 0.5B Instruct", "standin-a"]);
}));

test("the front is what no other cache beats", () => withPage(async (page) => {
  const [head, ...rows] = await rowsOf(page.locator("#size-data"));
  assert.deepEqual(head, ["Cache (K / V)", "On the front", "Bits of a value (mean of K and V)", "Mean KLD", "Interval"]);
  assert.equal(rows.length, CACHES.length);
  const points = CACHES.map(([name, k, v], index) => ({ name, x: (k + v) / 2, y: kldOf(index) }));
  const expected = points.filter((a) => !points.some((b) => b.x <= a.x && b.y <= a.y && (b.x < a.x || b.y < a.y)))
    .sort((a, b) => a.x - b.x).map(({ name }) => name);
  assert.deepEqual(expected, ["lm2", "plan standin-3bit", "lm4", "lm5", "f16"]);
  assert.deepEqual(rows.filter((row) => row[1] === "yes").map((row) => row[0]), expected);

  const chart = page.locator("#size figure svg.plot").last();
  assert.equal(await chart.locator(".unbeaten path").count(), expected.length);
  assert.equal(await chart.locator(".beaten path").count(), CACHES.length - expected.length);
  // f16 has no divergence, hence no interval
  assert.equal(await chart.locator(".interval line").count(), CACHES.length - 1);
  const line = await chart.locator(".front path").boundingBox();
  assert.ok(line.width > 500 && line.height > 100, "the front is drawn");
  assert.match(await chart.getAttribute("aria-label"), /On the front.*: lm2, plan standin-3bit, lm4, lm5, f16\./);
  const texts = await chart.locator("text").allTextContents();
  for (const text of ["↑ Mean KLD (nats)", "Bits of a value (mean of K and V) →", "0.01", "16", "lm4", "q4_0"]) {
    assert.ok(texts.includes(text), text);
  }
}));

test("quality and size of the chart can be picked", () => withPage(async (page) => {
  const heading = page.locator("#size figure h3");
  await picker(page, "Size").selectOption("bytes");
  assert.equal(await heading.textContent(), "Mean KLD against bytes for each token");
  // 6 layers of 2 heads of 64, at 4.17 bits each for K and V
  const sizes = await columnOf(page.locator("#size-data"), "Bytes of K and V for each token");
  assert.equal(sizes[0], "417 B");
  assert.equal(sizes.at(-1), "3.00 KiB");
  await picker(page, "Quality").selectOption({ label: "Tokens with another top choice, %" });
  assert.equal(await heading.textContent(), "Tokens with another top choice, % against bytes for each token");
  assert.ok((await page.locator("#size svg.plot").last().locator("text").allTextContents()).includes("↑ Tokens with another top choice (%)"));
  assert.equal(await page.locator("#size .dash").count(), 0, "the threshold is one of the KLD");
}));

test("a click on a header sorts, another one turns the order", () => withPage(async (page) => {
  const table = page.locator("#results-table");
  const header = table.locator("thead th", { hasText: "K bits" });
  await header.getByRole("button").click();
  assert.equal(await header.getAttribute("aria-sort"), "ascending");
  const ascending = (await columnOf(table, "K bits")).map(number);
  assert.deepEqual(ascending, CACHES.map((cache) => cache[1]).sort((a, b) => a - b));
  assert.equal(await page.getByRole("status").textContent(), "Sorted by K bits, ascending");
  await header.getByRole("button").click();
  assert.equal(await header.getAttribute("aria-sort"), "descending");
  assert.deepEqual((await columnOf(table, "K bits")).map(number), [...ascending].reverse());
  assert.equal(await table.locator("th[aria-sort]").count(), 1);
  // by value, not by text: 816 KiB is less than 1.50 MiB
  await table.locator("thead th", { hasText: "Cache size" }).getByRole("button").click();
  assert.equal((await columnOf(table, "Cache size")).at(-1), "1.50 MiB");
}));

test("tables are copied in the order shown", () => withPage(async (page) => {
  const table = page.locator("#verdicts");
  await table.locator("thead th", { hasText: "Worst KLD" }).getByRole("button").click();
  const rows = await rowsOf(table);
  await table.getByRole("button", { name: "Copy as TSV" }).click();
  assert.equal(await table.getByRole("button", { name: "Copy as TSV" }).textContent(), "Copied");
  const tsv = await clipboard(page);
  assert.deepEqual(tsv.trimEnd().split("\n").map((line) => line.split("\t")),
    rows.map((row) => row.map((text) => text.replaceAll("\u2212", "-"))));
  assert.equal(tsv.split("\n")[1].split("\t")[0], "f16");
  await table.getByRole("button", { name: "Copy as Markdown" }).click();
  const markdown = (await clipboard(page)).trimEnd().split("\n");
  assert.equal(markdown[0], "| Cache (K / V) | Verdict | Bits of a value | Smaller than f16 | Safe in | Worst KLD + 2 SE | Where it was worst |");
  assert.equal(markdown[1], "|---|---|---:|---:|---:|---:|---|");
  assert.deepEqual(markdown.slice(2), rows.slice(1).map((row) => `| ${row.join(" | ")} |`));
}));

test("pickers change what is shown, and what they offer", () => withPage(async (page) => {
  assert.deepEqual(await titles(page), ["What is safe", "Quality against size", "Quality by context", "Results", "Bits of the plans",
    "Outlier channels of keys", "Commands", "What was measured"]);
  const before = await rowsOf(page.locator("#results-table"));
  await picker(page, "Context").selectOption({ label: "8,192 tokens" });
  const sizes = await columnOf(page.locator("#results-table"), "Cache size");
  assert.ok(sizes.includes("24.0 MiB"), "f16 at 8,192 tokens");
  assert.equal(await picker(page, "Fed").count(), 0, "with one choice there is nothing to pick");
  await picker(page, "Context").selectOption({ label: "512 tokens" });
  assert.deepEqual(await rowsOf(page.locator("#results-table")), before);
  await picker(page, "Fed").selectOption("decode");
  assert.notDeepEqual(await rowsOf(page.locator("#results-table")), before);
  await picker(page, "Text").selectOption({ label: "korean.txt" });
  assert.match(await page.locator(".toolbar").textContent(), /Fedwhole prompt at once/);
  await picker(page, "Model").selectOption({ label: "Qwen2.5 0.5B Instruct" });
  assert.equal(await page.evaluate(() => document.activeElement.selectedOptions[0].textContent), "Qwen2.5 0.5B Instruct");
  assert.equal((await titles(page)).length, 10);
  assert.match(await page.locator("#safe .answer").textContent(), /^plan qwen-3bit is the smallest safe cache\./);
  const [head, ...rows] = await rowsOf(page.locator("#agreement-table"));
  assert.deepEqual(head, ["Cache (K / V)", "Prompts", "Bits of a value", "agreement length", "identical", "prompts", "script errors"]);
  assert.deepEqual(rows.map((row) => row[0]), ["lm3", "lm4", "q4_0", "q8_0"]);
  assert.deepEqual(rows[0].slice(3, 6), ["114.6 ± 3.9", "0.8741 [0.777, 0.923]", "40"]);
}));

test("verdicts follow the rule and its threshold", () => withPage(async (page) => {
  assert.match(await page.locator("#safe .answer").textContent(), /^plan standin-3bit is the smallest safe cache\..*3\.04 bits.*5\.3 times less/);
  const verdict = async (name) => (await rowsOf(page.locator("#verdicts"))).find((row) => row[0] === name);
  assert.deepEqual((await verdict("lm4")).slice(1, 5), ["✓ safe", "4.17", "3.8 ×", "8 of 8"]);
  assert.equal((await verdict("q4_0"))[1], "✗ not safe");
  assert.deepEqual((await verdict("lm3")).slice(1, 5), ["◐ safe in part", "3.17", "5.0 ×", "7 of 8"]);
  await picker(page, "Threshold of the mean KLD").selectOption("0.001");
  assert.match(await page.locator("#safe .answer").textContent(), /^lm5 is the smallest safe cache/);
  assert.equal((await verdict("lm4"))[1], "✗ not safe");
  assert.equal(await page.locator("#size .key .dash + *, #size .key li:has(.dash)").last().textContent(), "threshold 0.001");
}));

/** The image of a heat map: its size and the colours of its pixels, row by row. */
function pixels(chart) {
  return chart.locator(".raster image").evaluate(async (element) => {
    const image = new Image();
    image.src = element.href.baseVal;
    await image.decode();
    const { width, height } = image;
    const context = Object.assign(document.createElement("canvas"), { width, height }).getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    const colours = Array.from({ length: width * height }, (_, i) => `rgb(${data.slice(4 * i, 4 * i + 3).join(", ")})`);
    return { width, height, colours };
  });
}

/** A colour of the theme. */
function colour(page, name) {
  return page.evaluate((property) => {
    const sample = document.body.appendChild(document.createElement("i"));
    sample.style.setProperty("color", `var(${property})`);
    const { color } = getComputedStyle(sample);
    sample.remove();
    return color;
  }, name);
}

test("heat maps have a cell for each head and channel", () => withPage(async (page) => {
  const heat = page.locator("#outliers figure svg.plot").last();
  const drawn = await pixels(heat);
  assert.deepEqual([drawn.width, drawn.height, new Set(drawn.colours).size > 4], [64, 6 * 2, true]);
  const most = await colour(page, "--ramp4");
  assert.equal(drawn.colours[0], most, "the largest, 170");
  const strong = drawn.colours.flatMap((of, i) => (of === most ? [i] : []));
  assert.ok(strong.every((i) => (i % 64) % 32 === (Math.floor(i / 128) * 5 + (Math.floor(i / 64) % 2) * 11) % 32), "huge ones alone");
  await heat.locator(".raster image").hover({ position: { x: 3, y: 3 } });
  assert.match(await heat.locator("[aria-label=tip]").textContent(), /layer 0, head 0, channel 0\W+mean 170/);
  assert.match(await heat.getAttribute("aria-label"), /standin-a: 6 layers of 2 KV heads by 64 channels\. The largest is 170 in layer 0/);
  const largest = await rowsOf(page.locator("#outliers .table"));
  assert.deepEqual(largest[1].slice(0, 4), ["0", "0", "0", "170"]);
  assert.equal(largest.length - 1, 40);
  await picker(page, "Shown").selectOption({ label: "Standard deviation" });
  assert.equal(await page.locator("#outliers figure h3").textContent(), "Standard deviation of the key channels");
  await page.getByRole("button", { name: "Copy all channels as TSV" }).click();
  assert.equal((await clipboard(page)).trimEnd().split("\n").length, 1 + 6 * 2 * 64);

  for (const side of ["keys", "values"]) {
    const plan = page.locator(`.plan-${side} svg.plot`);
    assert.equal(await plan.locator(".cell rect").count(), 12);
    assert.equal(await plan.locator(".text text").count(), 12);
  }
  // head 0 of layer 0: 2 + 1 % 5 + 0.17 bits
  assert.deepEqual((await rowsOf(page.locator("#plan-table")))[1], ["Keys", "0", "0", "3.17", "lm3*32,lm3*32"]);
  await picker(page, "Model").selectOption("2");
  const other = await pixels(page.locator("#outliers figure svg.plot").last());
  assert.deepEqual([other.width, other.height], [64, 24 * 2]);
  assert.equal(await page.locator(".plan-keys .cell rect").count(), 48);
}));

test("retrieval grids have counts and intervals", () => withPage(async (page) => {
  await picker(page, "Model").selectOption("2");
  assert.deepEqual(await page.locator("#retrieval figure h3").allTextContents(), ["f16", "q8_0", "q4_0", "lm3"]);
  const q4 = page.locator("#retrieval figure", { hasText: "q4_0" });
  assert.equal(await q4.locator(".cell rect").count(), 15);
  const texts = await q4.locator(".text text").allTextContents();
  assert.equal(texts.length, 15);
  assert.ok(texts.includes("6/20"), "half way into 8,192 tokens");
  assert.match(await q4.locator("svg").getAttribute("aria-label"), /8,192 tokens, depth 50 %: 6 of 20/);
  const rows = await rowsOf(page.locator("#retrieval-table"));
  assert.equal(rows.length - 1, 4 * 3 * 5 * 2);
  assert.deepEqual(rows[1], ["f16", "1", "512", "0 %", "20 of 20", "84 % to 100 %"]);
  await picker(page, "Hidden keys").selectOption({ label: "4 keys" });
  assert.ok((await q4.locator(".text text").allTextContents()).includes("4/20"));
}));

test("lines over contexts and positions, of the caches that are chosen", () => withPage(async (page) => {
  const charts = page.locator("#context .pair svg[role=img]");
  assert.equal(await charts.count(), 2);
  assert.equal(await charts.first().locator(".line path").count(), 6);
  assert.equal(await charts.first().locator(".dot path").count(), 6 * 3);
  assert.equal(await charts.first().locator(".interval line").count(), 6 * 3);
  assert.equal(await charts.last().locator(".dot path").count(), 6 * 8);
  await page.getByText("Which caches").click();
  await page.getByLabel("lm3", { exact: true }).check();
  await page.getByLabel("uni4", { exact: true }).check();
  assert.equal(await charts.first().locator(".line path").count(), 8);
  assert.ok(await page.getByLabel("q5_1", { exact: true }).isDisabled(), "more than 8 lines cannot be told apart");
  await page.getByLabel("lm3", { exact: true }).uncheck();
  assert.ok(await page.getByLabel("q5_1", { exact: true }).isEnabled());
  assert.equal(await page.locator("#context .key").first().locator("li").count(), 8, "seven lines and the threshold");
}));

test("commands are shown as they are in the database", () => withPage(async (page) => {
  await page.getByText("Divergence, prefill, standin-a: 90 commands").click();
  const group = page.locator("#commands details[open]");
  const commands = await group.locator("pre").allTextContents();
  assert.equal(commands.length, 90);
  assert.equal(commands[0], "kvant eval -m models/standin-a-q8_0.gguf -f corpora/wiki.test.raw -c 512 --chunks 32 --cache f16/f16 --json");
  await group.getByRole("button", { name: "Copy all" }).click();
  assert.equal(await clipboard(page), commands.join("\n") + "\n");
  await group.getByRole("button", { name: "Copy command" }).nth(2).click();
  assert.equal(await clipboard(page), commands[2]);
}));

test("what was measured is named with its hash", () => withPage(async (page) => {
  const tables = page.locator("#sources .table");
  assert.deepEqual((await rowsOf(tables.nth(0)))[2], ["Qwen2.5 0.5B Instruct", "qwen2", "Q8_0", "24", "14", "2", "64", "506 MiB",
    "90aa3c1de77b2f04", "models/qwen2.5-0.5b-instruct-q8_0.gguf"]);
  assert.deepEqual((await rowsOf(tables.nth(1)))[2], ["korean.txt", "77e6d5c4b3a29180", "471 KiB", "corpora/korean.txt"]);
  assert.match(await page.locator("footer").textContent(), /^Made by kvant \d+\.\d+\.\d+ from fixture\.sqlite\./);
}));

test("nothing sticks out at the width of a telephone", () => withPage(async (page) => {
  await picker(page, "Model").selectOption("2");
  await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  await page.waitForFunction(() => document.querySelector("#size .canvas").dataset.width);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), 390);
  const texts = page.locator("#size svg.plot").last().locator("text");
  for (const text of await texts.all()) {
    const box = await text.boundingBox();
    assert.ok(box.x >= 0 && box.x + box.width <= 390, await text.textContent());
  }
}, { viewport: { width: 390, height: 800 } }));

test("charts are drawn anew for another width and another appearance", () => withPage(async (page) => {
  const chart = page.locator("#size svg.plot").last();
  const fill = async () => (await pixels(page.locator("#outliers figure svg.plot").last())).colours[0];
  assert.equal(await chart.getAttribute("width"), "1158");
  const light = await fill();
  await page.setViewportSize({ width: 800, height: 900 });
  await page.waitForFunction(() => [...document.querySelectorAll("#size svg.plot")].at(-1).getAttribute("width") === "710");
  await picker(page, "Appearance").selectOption("dark");
  assert.notEqual(await fill(), light);
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), "rgb(18, 21, 27)");
  await page.reload();
  assert.equal(await picker(page, "Appearance").inputValue(), "dark");
}));
