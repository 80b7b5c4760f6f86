/** What a model finds again in a long context, for each cache. */
import * as Plot from "@observablehq/plot";
import { figure, inkOn, ramp, rampKey, type PlotOptions } from "./chart.ts";
import { distinct, type Cell } from "./data.ts";
import { h, picker } from "./dom.ts";
import { count, fixed, plural } from "./format.ts";
import type { Section } from "./sections.ts";
import { foldedTable } from "./table.ts";

interface Point {
  label: string;
  context: number;
  keys: number;
  depth: number;
  trials: number;
  found: number;
  low: number;
  high: number;
}

function points(cells: Cell[]): Point[] {
  return cells.flatMap((cell) => cell.retrieval.flatMap(([keys, depth, trials, found, low, high]): Point[] => {
    if (cell.context === null || keys === null || depth === null || !trials || found === null) return [];
    return [{ label: cell.label, context: cell.context, keys, depth, trials, found, low: low ?? NaN, high: high ?? NaN }];
  }));
}

const share = (point: Point) => point.found / point.trials;
const atDepth = (depth: number) => `${fixed(100 * depth, 0)} %`;

function drawing(list: Point[], contexts: number[], depths: number[], width: number): PlotOptions {
  return {
    width, height: 52 + 34 * depths.length, marginLeft: 64, marginTop: 8, marginBottom: 40, marginRight: 4,
    x: { type: "band", domain: contexts, label: "Context (tokens)", tickFormat: (d: number) => count(d), padding: 0.04 },
    y: { type: "band", domain: depths, label: "Depth", tickFormat: atDepth, padding: 0.06 },
    color: { type: "linear", domain: [0, 1], interpolate: ramp() },
    marks: [
      Plot.cell(list, { x: "context", y: "depth", fill: share, rx: 3 }),
      Plot.text(list, { x: "context", y: "depth", text: (point: Point) => `${point.found}/${point.trials}`,
        fill: (point: Point) => inkOn(share(point)), fontSize: 12 }),
      Plot.tip(list, Plot.pointer({ x: "context", y: "depth", title: (point: Point) =>
        `${count(point.context)} tokens, depth ${atDepth(point.depth)}\nfound ${point.found} of ${point.trials}\n` +
        `95 %: ${atDepth(point.low)} to ${atDepth(point.high)}` })),
    ],
  };
}

function grid(label: string, list: Point[], contexts: number[], depths: number[]): HTMLElement {
  const found = list.reduce((sum, point) => sum + point.found, 0);
  const trials = list.reduce((sum, point) => sum + point.trials, 0);
  return figure({
    title: label,
    note: `${found} of ${trials} found`,
    className: "grid",
    description: `Grid of ${contexts.length} context lengths by ${depths.length} depths for ${label}: ` +
      list.map((point) => `${count(point.context)} tokens, depth ${atDepth(point.depth)}: ${point.found} of ${point.trials}`).join("; "),
    draw: (width) => drawing(list, contexts, depths, width),
  });
}

let pickedKeys: number | null = null;

function content(all: Point[], keys: number): HTMLElement {
  const list = all.filter((point) => point.keys === keys);
  const contexts = distinct(list.map((point) => point.context));
  const depths = distinct(list.map((point) => point.depth));
  const labels = [...new Set(list.map((point) => point.label))];
  return h("div", {},
    h("div", { class: "legend" }, rampKey("Share found", { type: "linear", domain: [0, 1], interpolate: ramp(),
      tickFormat: (d: number) => atDepth(d) })),
    h("div", { class: "multiples" }, ...labels.map((label) =>
      grid(label, list.filter((point) => point.label === label), contexts, depths))),
    foldedTable<Point>([
      { title: "Cache (K / V)", left: true, code: true, text: (point) => point.label },
      { title: "Keys", text: (point) => count(point.keys), value: (point) => point.keys },
      { title: "Context", text: (point) => count(point.context), value: (point) => point.context },
      { title: "Depth", text: (point) => atDepth(point.depth), value: (point) => point.depth },
      { title: "Found", text: (point) => `${point.found} of ${point.trials}`, value: share },
      { title: "95 % interval", text: (point) => `${atDepth(point.low)} to ${atDepth(point.high)}`, value: (point) => point.low },
    ], all, { caption: "Retrieval: what was found, with intervals", id: "retrieval-table" }));
}

export const retrievalSection: Section = {
  id: "retrieval",
  title: "Retrieval",
  present: (data) => data.cells.some((cell) => cell.retrieval.length > 0),
  render(data, state) {
    const all = points(data.cells.filter((cell) => cell.model_id === state.model));
    if (all.length === 0) return null;
    const choices = distinct(all.map((point) => point.keys));
    if (pickedKeys === null || !choices.includes(pickedKeys)) pickedKeys = choices[0]!;
    const body = h("div", {}, content(all, pickedKeys));
    return [
      h("p", {}, "Keys with their values were hidden in a long text, at several depths between its start and its end, and asked " +
        "for after it. A trial counts when the answer is exact. Compare each cache with f16, not with 100 %."),
      h("div", { class: "pickers" }, picker("Hidden keys", choices.map((n) => ({ value: String(n), text: plural(n, "key") })),
        String(pickedKeys), (value) => {
          pickedKeys = Number(value);
          body.replaceChildren(content(all, pickedKeys));
        })),
      body,
    ];
  },
};
