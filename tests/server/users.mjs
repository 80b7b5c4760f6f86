// Tokens per second of kvant serve, all users together, by how many there are. Each has a conversation of its own of 4096
// tokens in the cache: one is computed, saved, and restored for all. The machine should have nothing else to do.
//   KVANT_BINARY=... KVANT_MODEL=... node users.mjs [tokens of an answer, default 128] [options of kvant serve...]
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startServer } from "./server.mjs";

const depth = 4096;
const length = Number(process.argv[2] ?? 128);
const repetitions = 3;
const userCounts = [1, 4, 8, 16];
const most = Math.max(...userCounts);

const folder = mkdtempSync(join(tmpdir(), "kvant-users-"));
const server = await startServer({
  options: ["--parallel", String(most), "--slot-folder", folder, ...process.argv.slice(3)],
  context: depth + 256,
  precision: "fast",
});
const post = async (path, body) => {
  const response = await fetch(`${server.url}${path}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  const document = await response.json();
  if (response.status !== 200) throw new Error(`${path}: ${document.error.message}`);
  return document;
};
const seconds = async (work) => {
  const begin = performance.now();
  await work();
  return (performance.now() - begin) / 1000;
};

const prompt = Array.from({ length: depth }, (_, i) => (i * 7919) % 1009);
const filling = await seconds(() => post("/v1/completions", { prompt, max_tokens: 1 }));
const { slots } = await (await fetch(`${server.url}/slots`)).json();
await post(`/slots/${slots[0].id}/save`, { filename: "conversation" });

console.log(server.log().trim().split("\n").at(-1));
console.log(`a prompt of ${depth} tokens: ${(depth / filling).toFixed(0)} tokens/s`);
let next = 0; // what each user says differs, so that nobody goes on with another one's answer
const answer = async () => {
  const request = { prompt: [...prompt, ++next], max_tokens: length, temperature: 0, ignore_eos: true };
  const cached = (await post("/v1/completions", request)).usage.prompt_tokens_details.cached_tokens;
  if (cached !== depth) throw new Error(`${cached} tokens of the prompt were in the cache, expected ${depth}`);
};
const run = (users) => seconds(() => Promise.all(Array.from({ length: users }, answer)));
for (const users of userCounts) {
  const rates = [];
  for (let i = 0; i < repetitions; ++i) {
    for (let id = 0; id < most; ++id) await post(`/slots/${id}/restore`, { filename: "conversation" });
    rates.push(users * length / await run(users));
  }
  rates.sort((a, b) => a - b);
  console.log(`${String(users).padStart(2)} users: ${rates[repetitions >> 1].toFixed(1)} tokens/s (${rates[0].toFixed(1)} to ${rates.at(-1).toFixed(1)})`);
}
await server.stop();
rmSync(folder, { recursive: true });
