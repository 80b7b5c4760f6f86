/** What is safe at how many bits, and how to read the rest. */
import { baseName, best, modelName, type Cell, type Data } from "./data.ts";
import { h, paragraph, picker } from "./dom.ts";
import { bytes, count, digits, fixed, plural } from "./format.ts";
import { RATIO_TOLERANCE, setting, upperKld, verdicts, type Verdict } from "./quality.ts";
import { isQuality, type Section, type State } from "./sections.ts";
import { table } from "./table.ts";

const THRESHOLDS = [0.001, 0.003, 0.01, 0.03, 0.1];
const FLOAT_BITS = 16;

function qualityCells(data: Data, state: State): Cell[] {
  const groups = new Map<string, Cell[]>();
  for (const cell of data.cells) {
    if (!isQuality(cell) || cell.model_id !== state.model) continue;
    groups.set(setting(cell), [...(groups.get(setting(cell)) ?? []), cell]);
  }
  return [...groups.values()].flatMap(best);
}

function place(data: Data, cell: Cell): string {
  const corpus = data.corpora.find(({ id }) => id === cell.corpus_id);
  const decode = cell.kind === "decode" ? ", decode" : "";
  return `${baseName(corpus?.file ?? null)}, ${count(cell.context)} tokens${decode}`;
}

function word(verdict: Verdict): string {
  if (verdict.safe === 0) return "✗ not safe";
  if (verdict.safe < verdict.measured) return "◐ safe in part";
  return verdict.measured === verdict.settings ? "✓ safe" : "✓ safe where measured";
}

/** "lm4: 4.17 bits of a value, 3.8 times smaller than f16" */
function answer(data: Data, state: State, list: Verdict[]): HTMLElement {
  const settings = list[0]?.settings ?? 0;
  const first = list.find((verdict) => verdict.safe === settings && verdict.bits < FLOAT_BITS);
  const model = modelName(data.models.find(({ id }) => id === state.model));
  if (!first) {
    return h("div", { class: "answer none" },
      h("p", { class: "big" }, "No cache smaller than f16 is safe everywhere."),
      paragraph(`On ${model}, none met the rule in all of ${plural(settings, "setting")}. The table says which met it in some.`));
  }
  return h("div", { class: "answer" },
    h("p", { class: "big" }, h("code", {}, first.label), " is the smallest safe cache."),
    paragraph(`On ${model} it takes *${fixed(first.bits, 2)} bits for each value*, ` +
      `*${fixed(FLOAT_BITS / first.bits, 1)} times less* than f16` +
      (Number.isFinite(first.worst.bytesPerToken)
        ? ` (${bytes(first.worst.bytesPerToken)} for each token instead of ` +
          `${bytes((first.worst.bytesPerToken / first.bits) * FLOAT_BITS)}).`
        : ".") +
      ` It met the rule in ${settings === 1 ? "the one setting" : `all ${settings} settings`} measured; its largest mean KLD, ` +
      `${digits(upperKld(first.worst))} with two standard errors, was on ${place(data, first.worst)}.`));
}

function verdictTable(data: Data, list: Verdict[]): HTMLElement {
  return table<Verdict>([
    { title: "Cache (K / V)", left: true, code: true, text: (row) => row.label },
    { title: "Verdict", left: true, text: word, value: (row) => -row.safe / row.measured },
    { title: "Bits of a value", text: (row) => fixed(row.bits, 2), value: (row) => row.bits },
    { title: "Smaller than f16", text: (row) => `${fixed(FLOAT_BITS / row.bits, 1)} ×`, value: (row) => FLOAT_BITS / row.bits },
    { title: "Safe in", hint: "settings in which it met the rule, of those measured", value: (row) => row.safe / row.measured,
      text: (row) => `${row.safe} of ${row.measured}` },
    { title: "Worst KLD + 2 SE", text: (row) => digits(upperKld(row.worst)), value: (row) => upperKld(row.worst) },
    { title: "Where it was worst", left: true, text: (row) => place(data, row.worst) },
  ], list, { caption: "Caches of this model over all settings, the smallest first", sorted: 2, id: "verdicts" });
}

function rule(state: State, change: (threshold: number) => void): HTMLElement {
  return h("div", { class: "rule" },
    h("h3", {}, "The rule"),
    h("p", {}, "A cache is safe in a setting (one text, one context length, one way of feeding) when its mean KLD plus twice the " +
      `standard error is below ${state.threshold}, and the whole 95 % interval of its perplexity ratio lies between ` +
      `${1 - RATIO_TOLERANCE} and ${1 + RATIO_TOLERANCE}. A wide interval is no evidence, so it does not pass. `),
    picker("Threshold of the mean KLD", THRESHOLDS.map((value) => ({ value: String(value), text: String(value) })),
      String(state.threshold), (value) => change(Number(value))));
}

function guide(): HTMLElement {
  return h("details", { class: "guide" },
    h("summary", {}, "How to read this page"),
    paragraph("A language model keeps a *key* and a *value* of every token it has seen: the KV cache. Stored in fewer bits it takes " +
      "less memory, and the model answers a little differently. Each measurement here runs the same model with the same weights over " +
      "the same text twice, with the reference cache and with the cache in question, and compares what they predict for each token."),
    h("dl", {},
      h("dt", {}, "KLD"), h("dd", {}, "Kullback-Leibler divergence, in nats: how far the predicted probabilities of the next token " +
        "moved. 0 is no change. Around 0.001 two runs can hardly be told apart; at 0.1 the text drifts visibly. The mean hides rare bad " +
        "tokens: look at p99 and max too."),
      h("dt", {}, "± SE"), h("dd", {}, "standard error of the mean. Charts draw twice of it to both sides."),
      h("dt", {}, "top-1"), h("dd", {}, "share of tokens for which both caches would choose the same next token."),
      h("dt", {}, "PPL ratio"), h("dd", {}, "perplexity with the cache over perplexity with the reference, with a 95 % bootstrap " +
        "interval. Above 1 the cache predicts the text worse."),
      h("dt", {}, "last quarter"), h("dd", {}, "the same over the last quarter of each window alone, where the cache is fullest."),
      h("dt", {}, "bits of a value"), h("dd", {}, "all bytes stored for keys and values, scales included, over the count of numbers " +
        "in them. f16 has 16."),
      h("dt", {}, "prefill, decode"), h("dd", {}, "whether the text came in one piece or token by token, as when text is generated.")),
    paragraph("What was not measured is not known: another text, a longer context or another model may need more bits. Numbers of " +
      "unlike settings are not to be compared with each other."));
}

export function safeSection(change: (threshold: number) => void): Section {
  return {
    id: "safe",
    title: "What is safe",
    present: () => true,
    render(data, state) {
      const list = verdicts(qualityCells(data, state), state.threshold);
      if (list.length === 0) return [guide()];
      return [answer(data, state, list), rule(state, change), verdictTable(data, list), guide()];
    },
  };
}

