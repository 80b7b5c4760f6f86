// OpenAI's own client against kvant serve, streaming and not.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import OpenAI from "openai";
import { startServer } from "./server.mjs";

const messages = [{ role: "system", content: "You tell stories." }, { role: "user", content: "Begin." }];
let server;
let client;

before(async () => {
  server = await startServer({ options: ["--parallel", "4", "--api-key-file", "KEYS"], keys: ["secret-1", "secret-2"] });
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "secret-2", maxRetries: 0 });
});
after(() => server.stop());

test("lists the model", async () => {
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  assert.deepEqual(models, ["small"]);
});

test("answers a chat, whole and as a stream, alike", async () => {
  const request = { model: "small", messages, temperature: 0, max_tokens: 24 };
  const whole = await client.chat.completions.create(request);
  assert.equal(whole.object, "chat.completion");
  assert.equal(whole.choices[0].message.role, "assistant");
  assert.ok(["length", "stop"].includes(whole.choices[0].finish_reason));
  assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

  const stream = await client.chat.completions.create({ ...request, stream: true, stream_options: { include_usage: true } });
  let text = "";
  let finish = null;
  let usage = null;
  for await (const chunk of stream) {
    assert.equal(chunk.object, "chat.completion.chunk");
    text += chunk.choices[0]?.delta.content ?? "";
    finish = chunk.choices[0]?.finish_reason ?? finish;
    usage = chunk.usage ?? usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(finish, whole.choices[0].finish_reason);
  assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  assert.ok(usage.prompt_tokens_details.cached_tokens > 0, "the second time the prompt is in the cache");
});

test("the client's own reader of streams is content", async () => {
  const runner = client.chat.completions.stream({ model: "small", messages, temperature: 0, max_tokens: 8 });
  const completion = await runner.finalChatCompletion();
  assert.equal(completion.choices.length, 1);
  assert.equal(await runner.finalContent(), completion.choices[0].message.content);
});

test("completes texts and tokens, several answers at a time", async () => {
  const completion = await client.completions.create({
    model: "small", prompt: ["The king", "The sea"], n: 2, max_tokens: 6, temperature: 0.9, seed: 11,
  });
  assert.deepEqual(completion.choices.map((choice) => choice.index), [0, 1, 2, 3]);
  const again = await client.completions.create({
    model: "small", prompt: ["The king", "The sea"], n: 2, max_tokens: 6, temperature: 0.9, seed: 11,
  });
  assert.deepEqual(again.choices.map((choice) => choice.text), completion.choices.map((choice) => choice.text));
  const tokens = await client.completions.create({ model: "small", prompt: [5, 6, 7], max_tokens: 3 });
  assert.equal(tokens.usage.prompt_tokens, 3);

  let streamed = "";
  const greedy = { model: "small", prompt: "The king", max_tokens: 12, temperature: 0 };
  for await (const chunk of await client.completions.create({ ...greedy, stream: true })) streamed += chunk.choices[0].text;
  assert.equal(streamed, (await client.completions.create(greedy)).choices[0].text);
});

test("stops, probabilities and limits", async () => {
  const greedy = { model: "small", messages, temperature: 0, max_tokens: 30 };
  const text = (await client.chat.completions.create(greedy)).choices[0].message.content;
  const stop = text.slice(10, 13);
  const stopped = await client.chat.completions.create({ ...greedy, stop: [stop], logprobs: true, top_logprobs: 3 });
  assert.equal(stopped.choices[0].message.content, text.slice(0, text.indexOf(stop)));
  assert.equal(stopped.choices[0].finish_reason, "stop");
  const entries = stopped.choices[0].logprobs.content;
  for (const entry of entries) {
    assert.equal(entry.top_logprobs.length, 3);
    assert.equal(entry.top_logprobs[0].token, entry.token, "greedy");
    assert.ok(entry.logprob <= 0);
    assert.deepEqual([...Buffer.from(entry.bytes).toString("utf8")], [...entry.token]);
  }
  const short = await client.chat.completions.create({ model: "small", messages, max_completion_tokens: 2, temperature: 0 });
  assert.equal(short.usage.completion_tokens, 2);
});

test("many at a time get what each gets alone", async () => {
  const ask = (i) => client.completions.create({ model: "small", prompt: `${"x".repeat(3 * i)} The road`, max_tokens: 10, temperature: 0 });
  const alone = [];
  for (let i = 0; i < 8; ++i) alone.push((await ask(i)).choices[0].text);
  const together = await Promise.all(Array.from({ length: 8 }, (_, i) => ask(i)));
  assert.deepEqual(together.map((completion) => completion.choices[0].text), alone);
});

test("errors become the client's exceptions", async () => {
  const request = { model: "small", messages };
  await assert.rejects(client.chat.completions.create({ ...request, temperature: 9 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "temperature");
    return true;
  });
  await assert.rejects(client.chat.completions.create({ ...request, model: "other" }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  await assert.rejects(client.completions.create({ model: "small", prompt: Array(4000).fill(5) }),
    (error) => error.code === "context_length_exceeded");
  const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "wrong", maxRetries: 0 });
  await assert.rejects(stranger.models.list(), OpenAI.AuthenticationError);
});

test("an answer ends when its client leaves", async () => {
  const controller = new AbortController();
  const stream = await client.chat.completions.create(
    { model: "small", messages, max_tokens: 900, ignore_eos: true, stream: true }, { signal: controller.signal });
  let parts = 0;
  try {
    for await (const chunk of stream) {
      assert.ok(chunk);
      if (++parts === 3) controller.abort();
    }
  } catch (error) {
    assert.equal(error.name, "AbortError");
  }
  for (let i = 0; i < 200 && (await server.metric("kvant_answers_running")) > 0; ++i) {
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
  assert.equal(await server.metric("kvant_answers_running"), 0);
  assert.ok((await server.metric('kvant_answers_total{finish="cancelled"}')) >= 1);
});
