"use strict";

// The page of kvant serve: a conversation through the server's own interface, and what its cache takes. Whatever a model
// writes reaches the page as text only.

const element = (id) => document.getElementById(id);
let messages = [];
let running = null; // the AbortController of the answer being made

const formatBytes = (bytes) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1000 && unit + 1 < units.length; ++unit) bytes /= 1024;
  return `${bytes.toFixed(unit === 0 || bytes >= 100 ? 0 : bytes >= 10 ? 1 : 2)} ${units[unit]}`;
};

const headers = (more = {}) => {
  const key = element("key").value;
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
};

const showError = (text) => {
  element("error").textContent = text;
  element("error").hidden = text === "";
};

const addTurn = (role, who) => {
  const turn = document.createElement("div");
  turn.className = `turn ${role}`;
  const name = document.createElement("span");
  name.className = "who";
  name.textContent = who;
  const text = document.createTextNode("");
  turn.append(name, text);
  element("log").append(turn);
  return text;
};

// The documents of an event stream, without its last line.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

const failure = async (response) => {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered with status ${response.status}`;
  }
};

async function answer(conversation, text, signal) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify({
      messages: conversation,
      temperature: Number(element("temperature").value),
      max_tokens: Number(element("tokens").value),
      stream: true,
      stream_options: { include_usage: true },
    }),
    signal,
  });
  if (!response.ok) throw new Error(await failure(response));
  let first = 0;
  let usage = null;
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    const delta = event.choices[0]?.delta?.content ?? "";
    if (delta !== "" && first === 0) first = performance.now();
    text.appendData(delta);
    usage = event.usage ?? usage;
  }
  if (usage && first > 0) {
    const seconds = (performance.now() - first) / 1000;
    const tokens = usage.completion_tokens - 1; // the first one is the prompt's work
    element("speed").textContent = tokens > 0 ? `${(tokens / seconds).toFixed(1)} tokens/s` : "-";
    element("cached").textContent = `${usage.prompt_tokens_details.cached_tokens} of ${usage.prompt_tokens} tokens`;
  }
}

async function showCache() {
  const response = await fetch("metrics", { headers: headers() });
  if (!response.ok) return;
  const values = new Map();
  for (const line of (await response.text()).split("\n")) {
    const at = line.lastIndexOf(" ");
    if (!line.startsWith("#") && at > 0) values.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  const used = values.get("kvant_cache_used_bytes");
  const f16 = values.get("kvant_cache_used_f16_bytes");
  element("used").textContent = `${formatBytes(used)} of ${formatBytes(values.get("kvant_cache_bytes"))}`;
  element("f16").textContent = used > 0 ? `${formatBytes(f16)} (${(f16 / used).toFixed(2)} times)` : formatBytes(f16);
}

async function showModel() {
  const response = await fetch("v1/models", { headers: headers() });
  if (response.ok) element("model").textContent = (await response.json()).data[0].id;
}

const setRunning = (controller) => {
  running = controller;
  element("send").disabled = controller !== null;
  element("stop").disabled = controller === null;
};

async function send(event) {
  event.preventDefault();
  const content = element("message").value.trim();
  if (content === "" || running !== null) return;
  showError("");
  element("message").value = "";
  addTurn("user", "You").data = content;
  const conversation = messages; // a new one may begin meanwhile
  conversation.push({ role: "user", content });
  const text = addTurn("assistant", "Model");
  setRunning(new AbortController());
  try {
    await answer(conversation, text, running.signal);
  } catch (error) {
    if (error.name !== "AbortError") showError(error.message);
  }
  if (text.data !== "") {
    conversation.push({ role: "assistant", content: text.data });
  } else {
    conversation.pop(); // as if it had not been said
    text.parentNode?.remove();
  }
  setRunning(null);
  element("message").focus();
  refresh();
}

const refresh = () => {
  showCache().catch(() => {});
  if (element("model").textContent === "") showModel().catch(() => {});
};

element("form").addEventListener("submit", send);
element("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  element("form").requestSubmit();
});
element("stop").addEventListener("click", () => running?.abort());
element("key").addEventListener("change", refresh);
element("reset").addEventListener("click", () => {
  running?.abort();
  messages = [];
  element("log").replaceChildren();
  showError("");
  element("message").focus();
});
refresh();
setInterval(() => {
  if (!document.hidden) refresh();
}, 3000);
