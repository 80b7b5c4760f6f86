// The page with a keyboard alone, and by the rules of axe.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { before, test } from "node:test";
import { makePage, openPage, picker } from "./browser.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let path;
before(() => {
  path = makePage("fixture", { files: ["fixture.sql"] });
});

for (const [colorScheme, width] of [["light", 1280], ["dark", 390]]) {
  test(`axe has nothing to say: ${colorScheme}, ${width} pixels wide`, async () => {
    const { page, close } = await openPage(path, { colorScheme, viewport: { width, height: 900 } });
    // The second model has all sections.
    await picker(page, "Model").selectOption("2");
    await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
    await page.evaluate(axe);
    const result = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
    const found = result.violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 200)}: ${node.failureSummary}`));
    assert.equal(found.slice(0, 20).join("\n"), "");
    assert.ok(result.passes.some(({ id }) => id === "color-contrast"));
    await close();
  });
}

/** What has the focus: its name to a screen reader, or its text. */
const focused = (page) => page.evaluate(() => {
  const { activeElement: element } = document;
  return element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent.trim();
});

test("everything is reached and used by keyboard, and what has the focus is seen", async () => {
  const { page, close } = await openPage(path);
  const tab = async (until, most = 60) => {
    for (let i = 0; i < most; ++i) {
      await page.keyboard.press("Tab");
      const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
      assert.notEqual(outline, "none", await focused(page));
      if ((await focused(page)).startsWith(until)) return;
    }
    assert.fail(`no ${until}`);
  };
  await tab("Skip to the content", 1);
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await tab("Threshold of the mean KLD", 1);
  await page.keyboard.press("ArrowUp");
  await page.waitForFunction(() => document.querySelector("#safe .answer").textContent.startsWith("plan standin-3bit is") === false);
  assert.equal(await focused(page), "Threshold of the mean KLD", "the focus stays");
  await tab("Verdict");
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#verdicts th[aria-sort]").textContent(), "Verdict↑");
  await page.keyboard.press("Space");
  assert.equal(await page.locator("#verdicts th[aria-sort]").textContent(), "Verdict↓");
  await tab("Copy as TSV");
  await page.keyboard.press("Enter");
  await page.waitForFunction(() => document.querySelector("[role=status]").textContent.startsWith("Copied table"));
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /^Cache \(K \/ V\)\tVerdict/);
  await tab("How to read this page");
  await page.keyboard.press("Enter");
  assert.ok(await page.getByText("Kullback-Leibler divergence").isVisible());
  await tab("Quality");
  await page.keyboard.press("ArrowDown");
  assert.match(await page.locator("#size figure h3").textContent(), /^Mean KLD, last quarter against/);
  assert.equal(await focused(page), "Quality");
  await tab("Which caches");
  await page.keyboard.press("Enter");
  await tab("lm3");
  await page.keyboard.press("Space");
  assert.equal(await page.locator("#context .pair svg[role=img]").first().locator(".line path").count(), 7);
  await close();
});

test("a change of the model keeps the focus on its picker", async () => {
  const { page, close } = await openPage(path);
  await picker(page, "Model").focus();
  await page.keyboard.press("ArrowDown");
  await page.waitForSelector("#retrieval figure");
  assert.equal(await focused(page), "Model");
  assert.equal(await picker(page, "Model").inputValue(), "2");
  await close();
});
