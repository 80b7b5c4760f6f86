// A server on a free port, for the tests of this folder. The environment names the program and its model: KVANT_BINARY
// and KVANT_MODEL.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Starts a server; "KEYS" among the options stands for a file with the keys. */
export async function startServer({ options = [], keys = [], context = 1024, precision = "reference" } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "kvant-serve-"));
  const file = join(folder, "keys");
  writeFileSync(file, keys.map((key) => `${key}\n`).join(""));
  const child = spawn(process.env.KVANT_BINARY, ["serve", "-m", process.env.KVANT_MODEL, "--port", "0", "--alias", "small",
    "-c", String(context), "--precision", precision, ...options.map((option) => (option === "KEYS" ? file : option))],
  { stdio: ["ignore", "inherit", "pipe"] });
  let log = "";
  const exited = new Promise((resolve) => child.once("exit", (code, signal) => resolve(code ?? signal)));
  const url = await new Promise((resolve, reject) => {
    child.stderr.setEncoding("utf8").on("data", (text) => {
      log += text;
      const match = log.match(/at (http:\/\/[^,]+),/);
      if (match) resolve(match[1]);
    });
    child.once("exit", () => reject(new Error(`the server ended: ${log}`)));
  });
  const headers = keys.length > 0 ? { Authorization: `Bearer ${keys[0]}` } : {};
  return {
    url,
    pid: child.pid,
    exited,
    log: () => log,
    /** The value of a metric by its name and labels. */
    async metric(name) {
      const text = await (await fetch(`${url}/metrics`, { headers })).text();
      const line = text.split("\n").find((entry) => entry.startsWith(`${name} `));
      if (line === undefined) throw new Error(`no metric ${name}`);
      return Number(line.slice(name.length + 1));
    },
    /** Its exit status. */
    async stop() {
      child.kill("SIGTERM");
      const status = await exited;
      rmSync(folder, { recursive: true });
      if (status !== 0) throw new Error(`the server ended with ${status}: ${log}`);
    },
  };
}
