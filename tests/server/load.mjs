// Mixed traffic against kvant serve: answers whole and in streams, several answers to a prompt, saved and restored
// conversations, clients that read slowly or leave, requests that are malformed or too large, connections that say nothing,
// and pauses of the server (SIGSTOP). Fails when the server ends, when a request that should be answered is not, when a bad
// one gets anything but its error, or when memory grows without end.
//   KVANT_BINARY=... KVANT_MODEL=... node load.mjs [seconds, default 120] [clients, default 12] [options of kvant serve...]
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startServer } from "./server.mjs";

const seconds = Number(process.argv[2] ?? 120);
const clients = Number(process.argv[3] ?? 12);
const saved = mkdtempSync(join(tmpdir(), "kvant-load-"));
const server = await startServer({
  options: ["--parallel", "4", "--queue", "12", "--timeout", "60", "--slot-folder", saved, ...process.argv.slice(4)],
  context: 512,
  precision: "fast",
});
const { port, hostname } = new URL(server.url);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const counts = new Map();
const problems = [];
const times = [];
let tokens = 0;
const count = (what) => counts.set(what, (counts.get(what) ?? 0) + 1);
const expect = (what, status, accepted) => {
  count(`${what}: ${status}`);
  if (!accepted.includes(status)) problems.push(`${what}: status ${status}`);
};

// A sequence that is the same in every run; which client gets which number depends on time.
let state = 12345;
const random = (n) => {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return Math.floor((state / 2 ** 32) * n);
};
const words = ["king", "sea", "road", "answer", "third", "day", "old", "river", "house", "light"];
const text = (length) => Array.from({ length }, () => words[random(words.length)]).join(" ");

const post = async (path, body, options = {}) => {
  const response = await fetch(`${server.url}${path}`, {
    method: "POST", headers: { "Content-Type": "application/json" }, body, ...options,
  });
  if (response.status === 429) await sleep(100 + random(400));
  return response;
};
const request = (more = {}) => JSON.stringify({
  messages: [{ role: "system", content: "You tell stories of kings and of the sea." }, { role: "user", content: text(1 + random(100)) }],
  max_tokens: 1 + random(40), ignore_eos: true, ...more,
});

const kinds = {
  async whole() {
    const begin = performance.now();
    const response = await post("/v1/chat/completions", request());
    const document = await response.json();
    expect("whole", response.status, [200, 429, 504]);
    if (response.status !== 200) return;
    tokens += document.usage.completion_tokens;
    times.push(performance.now() - begin);
  },
  async stream() {
    const response = await post("/v1/chat/completions", request({ stream: true, stream_options: { include_usage: true } }));
    const body = await response.text();
    expect("stream", response.status, [200, 429]);
    if (response.status !== 200) return;
    if (body.endsWith('"code":"timeout"}}\n\n')) return count("stream: timeout");
    if (!body.endsWith("data: [DONE]\n\n")) return problems.push(`a stream ended with ${body.slice(-100)}`);
    tokens += JSON.parse(body.split("\n\n").at(-3).slice(6)).usage.completion_tokens;
  },
  async several() {
    const response = await post("/v1/completions", JSON.stringify({
      prompt: [text(1 + random(30)), text(1 + random(30))], n: 2, logprobs: 3, max_tokens: 1 + random(10), seed: random(1000),
    }));
    const document = await response.json();
    expect("several", response.status, [200, 429, 504]);
    if (response.status !== 200) return;
    if (document.choices.length !== 4) problems.push(`several: ${document.choices.length} answers`);
    tokens += document.usage.completion_tokens;
  },
  async slow() {
    const response = await post("/v1/chat/completions", request({ stream: true, max_tokens: 30 }));
    expect("slow", response.status, [200, 429]);
    let body = "";
    for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
      body += part;
      await sleep(random(200));
    }
    if (response.status === 200 && !body.endsWith('"code":"timeout"}}\n\n') && !body.endsWith("data: [DONE]\n\n")) {
      problems.push(`a stream that was read slowly ended with ${body.slice(-100)}`);
    }
  },
  // Another client may take a conversation, or give its slot to another one, at any time: that is refused with 400.
  async conversation() {
    const { slots } = await (await fetch(`${server.url}/slots`)).json();
    const kept = slots.filter((slot) => slot.state === "kept");
    if (kept.length === 0) return;
    const filename = JSON.stringify({ filename: `conversation-${random(8)}` });
    const save = await post(`/slots/${kept[random(kept.length)].id}/save`, filename);
    await save.text();
    expect("save", save.status, [200, 400]);
    if (save.status !== 200) return;
    const restore = await post(`/slots/${kept[random(kept.length)].id}/restore`, filename);
    await restore.text();
    expect("restore", restore.status, [200, 400, 503]);
  },
  async leave() {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), random(400));
    try {
      const response = await post("/v1/chat/completions", request({ stream: random(2) === 0, max_tokens: 300 }), { signal: controller.signal });
      await response.text();
      count("leave: too late");
    } catch {
      count("leave: left");
    }
  },
  async malformed() {
    const bodies = ["", "{", "[]", `{"messages": ${"[".repeat(5000)}`, '{"messages": 5}', '{"prompt": "a", "temperature": "x"}', "\xff\xfe"];
    const response = await post(random(2) ? "/v1/chat/completions" : "/v1/completions", bodies[random(bodies.length)]);
    await response.text();
    expect("malformed", response.status, [400]);
  },
  async large() {
    try {
      const response = await post("/v1/completions", JSON.stringify({ prompt: "x".repeat(5_000_000) }));
      await response.text();
      expect("large", response.status, [413]);
    } catch {
      count("large: cut off"); // closed while the body was being sent
    }
    const long = await post("/v1/completions", JSON.stringify({ prompt: text(3000) }));
    await long.text();
    expect("long", long.status, [400]);
  },
  async silent() {
    const socket = connect(Number(port), hostname);
    socket.on("error", () => {});
    socket.write("POST /v1/completions HTTP/1.1\r\nContent-Le");
    await sleep(random(2000));
    socket.destroy();
    count("silent");
  },
};
const turns = ["whole", "whole", "whole", "stream", "stream", "stream", "several", "slow", "conversation", "leave", "leave",
  "malformed", "large", "silent"];

const residentBytes = () => Number(readFileSync(`/proc/${server.pid}/status`, "utf8").match(/VmRSS:\s+(\d+)/)[1]) * 1024;
const memory = [];
const end = Date.now() + seconds * 1000;
let ended = false;
server.exited.then((status) => {
  ended = true;
  if (Date.now() < end) problems.push(`the server ended with ${status}: ${server.log()}`);
});
const goOn = () => Date.now() < end && !ended;

const client = async () => {
  while (goOn()) {
    const kind = turns[random(turns.length)];
    try {
      await kinds[kind]();
    } catch (error) {
      await sleep(100);
      problems.push(`${kind}: ${error.cause?.code ?? error.message}`);
    }
  }
};
const pauses = async () => {
  while (goOn()) {
    await sleep(5000 + random(5000));
    if (ended) return;
    process.kill(server.pid, "SIGSTOP");
    await sleep(500 + random(1000));
    process.kill(server.pid, "SIGCONT");
    count("pause");
  }
};
const watch = async () => {
  while (goOn()) {
    memory.push(residentBytes());
    await sleep(Math.min(2000, seconds * 20));
  }
};

await Promise.all([...Array.from({ length: clients }, client), pauses(), watch()]);
if (!ended) {
  await sleep(500);
  if ((await server.metric("kvant_answers_running")) + (await server.metric("kvant_answers_waiting")) > 0) {
    await sleep(5000);
    if ((await server.metric("kvant_answers_running")) > 0) problems.push("answers still run when nobody waits");
  }
  await server.stop();
}
rmSync(saved, { recursive: true });

// The first third is for buffers that grow to their size.
const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
const third = Math.floor(memory.length / 3);
const settled = Math.max(...memory.slice(third, 2 * third));
const last = Math.max(...memory.slice(2 * third));
if (last > settled * 1.05 + 2 ** 20) problems.push(`memory grew from ${mib(settled)} to ${mib(last)} MiB`);
times.sort((a, b) => a - b);
const quantile = (q) => times[Math.min(times.length - 1, Math.floor(q * times.length))]?.toFixed(0);
for (const [what, n] of [...counts].sort()) console.log(`${what.padEnd(24)} ${n}`);
console.log(`${tokens} tokens in ${seconds} s; whole answers: median ${quantile(0.5)} ms, 99 % ${quantile(0.99)} ms`);
const tenths = Array.from({ length: 11 }, (_, i) => mib(memory[Math.round((memory.length - 1) * i / 10)]));
console.log(`resident MiB by tenths of the time: ${tenths.join(" ")}; second third at most ${mib(settled)}, last third at most ${mib(last)}`);
console.log(problems.length === 0 ? "no problems" : `${problems.length} problems:\n${[...new Set(problems)].slice(0, 20).join("\n")}`);
process.exit(problems.length === 0 ? 0 : 1);
