// The page of kvant serve in headless Chromium (KVANT_CHROMIUM).
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { startServer } from "./server.mjs";

let server;
let browser;

before(async () => {
  server = await startServer();
  // Chromium's own sandbox does not start as root; the page is ours.
  const args = ["--disable-dev-shm-usage", ...(process.getuid() === 0 ? ["--no-sandbox"] : [])];
  browser = await chromium.launch({ executablePath: process.env.KVANT_CHROMIUM, args });
});
after(async () => {
  await browser?.close();
  await server?.stop();
});

/** Opens the page for one test, at the end of which it must have complained of nothing and asked nobody else. */
async function withPage(use, { url = server.url, expected = [] } = {}) {
  const context = await browser.newContext({ viewport: { width: 900, height: 700 } });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) complaints.push(`asks ${request.url()}`);
  });
  try {
    await page.goto(url);
    await use(page);
    assert.deepEqual(complaints.filter((text) => !expected.some((part) => text.includes(part))), []);
  } finally {
    await context.close();
  }
}

test("a conversation shows answers, speed and what the cache takes", () => withPage(async (page) => {
  await page.waitForFunction(() => document.getElementById("model").textContent === "small");
  await page.getByLabel("Temperature").fill("0");
  await page.getByLabel("Most tokens").fill("12");
  for (const message of ["Who are you?", "And why?"]) {
    await page.getByLabel("Message").fill(message);
    await page.getByLabel("Message").press("Enter");
    await page.waitForFunction(() => !document.getElementById("send").disabled && document.getElementById("message").value === "");
  }
  const turns = await page.locator(".turn").allTextContents();
  assert.equal(turns.length, 4);
  assert.match(turns[0], /You.*Who are you\?/);
  assert.match(turns[1], /Model.+/);
  assert.match(await page.locator("#speed").textContent(), /^[\d.]+ tokens\/s$/);
  const [, cached] = (await page.locator("#cached").textContent()).match(/^(\d+) of \d+ tokens$/);
  assert.ok(Number(cached) > 5, "the second prompt begins with the first conversation");
  await page.waitForFunction(() => /iB of /.test(document.getElementById("used").textContent));
  assert.match(await page.locator("#f16").textContent(), /\(1\.00 times\)/);
  await page.getByRole("button", { name: "New conversation" }).click();
  assert.equal(await page.locator(".turn").count(), 0);
}));

test("an answer can be stopped, and what it has said stays", () => withPage(async (page) => {
  await page.getByLabel("Most tokens").fill("900");
  await page.getByLabel("Message").fill("Tell a long story");
  await page.getByRole("button", { name: "Send" }).click();
  await page.waitForFunction(() => document.querySelectorAll(".turn").length === 2 && document.querySelector(".turn.assistant").textContent.length > 20);
  await page.getByRole("button", { name: "Stop" }).click();
  await page.waitForFunction(() => !document.getElementById("send").disabled);
  assert.equal(await page.locator("#error").isVisible(), false);
  assert.equal(await page.locator(".turn").count(), 2);
}));

test("markup is text", () => withPage(async (page) => {
  await page.getByLabel("Most tokens").fill("1");
  await page.getByLabel("Message").fill("<img src=x onerror=alert(1)><b>bold</b>");
  await page.getByLabel("Message").press("Enter");
  await page.waitForFunction(() => !document.getElementById("send").disabled);
  assert.equal(await page.locator("#log img, #log b").count(), 0);
  assert.match(await page.locator(".turn.user").textContent(), /<b>bold<\/b>/);
}));

test("errors are shown", () => withPage(async (page) => {
  await page.getByLabel("Message").fill("x ".repeat(3000));
  await page.getByLabel("Message").press("Enter");
  await page.locator("#error").waitFor({ state: "visible" });
  assert.match(await page.locator("#error").textContent(), /the prompt has \d+ tokens/);
  assert.equal(await page.locator(".turn.assistant").count(), 0);
}, { expected: ["400"] }));

test("its policy lets nothing else in", () => withPage(async (page) => {
  const response = await page.request.get(server.url);
  const policy = response.headers()["content-security-policy"];
  for (const part of ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"]) assert.ok(policy.includes(part), part);
  const ran = await page.evaluate(() => {
    const script = document.createElement("script");
    script.textContent = "window.ran = true";
    document.body.append(script);
    return window.ran === true;
  });
  assert.equal(ran, false);
}, { expected: ["Content Security Policy"] }));

test("every control has a name, and the page fits a narrow screen", () => withPage(async (page) => {
  const unnamed = await page.evaluate(() => [...document.querySelectorAll("button, input, textarea")]
    .filter((control) => control.textContent.trim() === "" && (control.labels?.length ?? 0) === 0).map((control) => control.id));
  assert.deepEqual(unnamed, []);
  await page.setViewportSize({ width: 320, height: 600 });
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 320));
}));
