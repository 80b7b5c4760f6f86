/** Every measurement of divergence, as numbers. */
import { baseName, modelName, type Cell, type Data } from "./data.ts";
import { h, picker } from "./dom.ts";
import { bytes, count, digits, fixed, percent } from "./format.ts";
import { chosen, isQuality, nothing, type Section, type State } from "./sections.ts";
import { table, type Column } from "./table.ts";

const metric = (title: string, name: string, hint: string, scope = "all"): Column<Cell> => ({
  title, hint, text: (cell) => digits(cell.metric(name, scope)), value: (cell) => cell.metric(name, scope),
});

function ratio(cell: Cell): string {
  const [value, low, high] = ["ppl_ratio", "ppl_ratio_lo", "ppl_ratio_hi"].map((name) => cell.metric(name));
  if (!Number.isFinite(value)) return "–";
  return Number.isFinite(low) ? `${fixed(value!, 4)} [${fixed(low!, 4)}, ${fixed(high!, 4)}]` : fixed(value!, 4);
}

function columns(data: Data, everything: boolean): Column<Cell>[] {
  const model = (cell: Cell) => modelName(data.models.find(({ id }) => id === cell.model_id));
  const corpus = (cell: Cell) => baseName(data.corpora.find(({ id }) => id === cell.corpus_id)?.file ?? null);
  const where: Column<Cell>[] = everything ? [
    { title: "Model", left: true, text: model },
    { title: "Text", left: true, text: corpus },
    { title: "Context", text: (cell) => count(cell.context), value: (cell) => cell.context ?? NaN },
    { title: "Fed", left: true, text: (cell) => (cell.kind === "decode" ? "decode" : "prefill") },
  ] : [];
  return [
    { title: "Cache (K / V)", left: true, code: true, text: (cell) => cell.label },
    ...where,
    { title: "K bits", hint: "bits of a key's number", text: (cell) => fixed(cell.k_bpv ?? NaN, 2), value: (cell) => cell.k_bpv ?? NaN },
    { title: "V bits", hint: "bits of a value's number", text: (cell) => fixed(cell.v_bpv ?? NaN, 2), value: (cell) => cell.v_bpv ?? NaN },
    { title: "Cache size", hint: "bytes of the whole cache at this context", text: (cell) => bytes(cell.cache_bytes), value: (cell) => cell.cache_bytes ?? NaN },
    { title: "Constants", hint: "bytes of anchors and maps beside the cache", text: (cell) => bytes(cell.constant_bytes),
      value: (cell) => cell.constant_bytes ?? NaN },
    { title: "KLD mean", text: (cell) => `${digits(cell.metric("kld_mean"))} ± ${digits(cell.metric("kld_se"), 2)}`,
      value: (cell) => cell.metric("kld_mean") },
    metric("median", "kld_median", "median of the KLD"),
    metric("p90", "kld_p90", "90th percentile of the KLD"),
    metric("p95", "kld_p95", "95th percentile of the KLD"),
    metric("p99", "kld_p99", "99th percentile of the KLD"),
    metric("p99.9", "kld_p999", "99.9th percentile of the KLD"),
    metric("max", "kld_max", "largest KLD of a token"),
    { title: "top-1", hint: "tokens with the same top choice", text: (cell) => percent(cell.metric("top1")), value: (cell) => cell.metric("top1") },
    { title: "RMS Δp", hint: "root mean square change of the true token's probability", text: (cell) => percent(cell.metric("rms_probability")),
      value: (cell) => cell.metric("rms_probability") },
    { title: "PPL ratio [95 %]", text: ratio, value: (cell) => cell.metric("ppl_ratio") },
    metric("last ¼ KLD", "kld_mean", "mean KLD over the last quarter of each window", "last_quarter"),
    { title: "last ¼ PPL ratio", text: (cell) => fixed(cell.metric("ppl_ratio", "last_quarter"), 4),
      value: (cell) => cell.metric("ppl_ratio", "last_quarter") },
    { title: "PPL", hint: "perplexity with this cache", text: (cell) => digits(cell.metric("perplexity"), 4), value: (cell) => cell.metric("perplexity") },
    { title: "tokens", hint: "tokens scored", text: (cell) => count(cell.tokens), value: (cell) => cell.tokens ?? NaN },
    { title: "seconds", hint: "time of the measurement", text: (cell) => digits(cell.seconds ?? NaN), value: (cell) => cell.seconds ?? NaN },
  ];
}

let everything = false;

function content(data: Data, state: State): HTMLElement {
  const cells = everything ? data.cells.filter(isQuality) : chosen(data, state);
  if (cells.length === 0) return nothing("Quality");
  return table(columns(data, everything), cells, {
    caption: everything ? "All measurements" : "Measurements of what is picked above",
    sorted: columns(data, everything).findIndex(({ title }) => title === "KLD mean"),
    id: "results-table",
  });
}

export const resultsSection: Section = {
  id: "results",
  title: "Results",
  present: (data) => data.cells.some(isQuality),
  render(data, state) {
    const body = h("div", {}, content(data, state));
    const rows = picker("Rows", [{ value: "", text: "what is picked above" },
      { value: "all", text: "all models, texts and contexts" }], everything ? "all" : "", (value) => {
      everything = value === "all";
      body.replaceChildren(content(data, state));
    });
    return [h("div", { class: "pickers" }, rows), body];
  },
};
