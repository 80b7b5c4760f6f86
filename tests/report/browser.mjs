// Pages of `kvant report` in headless Chromium, for the tests of this folder. The environment names the programs:
// KVANT_BINARY, KVANT_MAKE_DATABASE and KVANT_CHROMIUM.
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "kvant-report-"));
let browser;

before(async () => {
  // Chromium's own sandbox does not start as root; the pages are ours.
  const args = ["--disable-dev-shm-usage", ...(process.getuid() === 0 ? ["--no-sandbox"] : [])];
  browser = await chromium.launch({ executablePath: process.env.KVANT_CHROMIUM, args });
});
after(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true });
});

/** Makes a database of tables.sql and what else is named or given as statements, and its page; returns the page's path. */
export function makePage(name, { files = [], sql = "" }) {
  const database = join(folder, `${name}.sqlite`);
  const page = join(folder, `${name}.html`);
  writeFileSync(join(folder, `${name}.sql`), sql);
  execFileSync(process.env.KVANT_MAKE_DATABASE, [database, join(here, "tables.sql"), ...files.map((file) => join(here, file)),
    join(folder, `${name}.sql`)]);
  execFileSync(process.env.KVANT_BINARY, ["report", database, "-o", page]);
  return page;
}

/**
 * Opens a page. `complaints` collects what its console and its policy say and what it throws, `requests` everything that
 * it asks for: all but the page itself is refused.
 */
export async function openPage(path, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const page = await context.newPage();
  const url = pathToFileURL(path).href;
  const complaints = [];
  const requests = [];
  page.on("console", (message) => complaints.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("dialog", (dialog) => {
    complaints.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.route("**/*", (route) => {
    if (route.request().url() === url) return route.continue();
    requests.push(route.request().url());
    return route.abort();
  });
  page.on("websocket", (socket) => requests.push(socket.url()));
  await page.goto(url);
  return { page, complaints, requests, close: () => context.close() };
}

/** The texts of a table's rows, those of its headers first; without the arrows of its order. */
export function rowsOf(table) {
  return table.evaluate((element) => [...element.querySelectorAll("tr")].map((row) =>
    [...row.cells].map((cell) => cell.textContent.replace(/[↕↑↓]$/, ""))));
}

/** The texts of one column, by its title. */
export async function columnOf(table, title) {
  const [head, ...rows] = await rowsOf(table);
  return rows.map((row) => row[head.indexOf(title)]);
}

/** A picker by its label. */
export function picker(page, label) {
  return page.getByLabel(label, { exact: true });
}

/** "0.0123" -> 0.0123, with the signs that the page writes. */
export function number(text) {
  return Number(text.replace(/[\u2212]/g, "-").replace(/[ ,%×]/g, ""));
}
