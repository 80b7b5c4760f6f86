/** Divergence over context lengths, and over the positions within a window. */
import * as Plot from "@observablehq/plot";
import { categorical, figure, key, logDomain, logTicks, symbols, thresholdKey, thresholdLine, type PlotOptions } from "./chart.ts";
import { best, distinct, type Cell } from "./data.ts";
import { h } from "./dom.ts";
import { count, digits, plural } from "./format.ts";
import { paretoFront } from "./quality.ts";
import { chosen, isQuality, type Section, type State } from "./sections.ts";
import { foldedTable } from "./table.ts";

interface Point {
  label: string;
  x: number;
  mean: number;
  error: number;
}

/** At most so many lines can be told apart. */
const MAX_LINES = 8;

/** Caches that are drawn at first: plain ones that everyone knows, then the front, the smallest first. */
function initial(cells: Cell[]): Set<string> {
  const front = paretoFront(cells, (cell) => cell.bits, (cell) => cell.metric("kld_mean"));
  const known = cells.filter((cell) => cell.label === "q8_0" || cell.label === "q4_0");
  const useful = [...front].filter((cell) => cell.metric("kld_mean") > 0).sort((a, b) => a.bits - b.bits);
  return new Set([...known, ...useful].slice(0, MAX_LINES).map((cell) => cell.label));
}

function drawing(points: Point[], lines: string[], axis: PlotOptions["x"], state: State, width: number): PlotOptions {
  const domain = logDomain([...points.map((point) => point.mean), state.threshold]);
  const low = (point: Point) => Math.max(point.mean - 2 * point.error, domain[0]);
  const y = (point: Point) => Math.max(point.mean, domain[0]);
  return {
    width, height: 360, marginLeft: 64, marginRight: 20, marginBottom: 44,
    x: { ...axis, inset: 14 },
    y: { type: "log", domain, label: "Mean KLD (nats)", grid: true, ticks: logTicks(domain), tickFormat: (d: number) => digits(d, 1) },
    color: { domain: lines, range: categorical.slice(0, lines.length) },
    symbol: { domain: lines, range: symbols.slice(0, lines.length) },
    marks: [
      thresholdLine([state.threshold]),
      Plot.ruleX(points.filter((point) => Number.isFinite(point.error) && point.mean > 0), { x: "x", y1: low,
        y2: (point: Point) => point.mean + 2 * point.error, stroke: "label", strokeOpacity: 0.7, className: "interval" }),
      Plot.line(points, { x: "x", y, z: "label", stroke: "label", strokeWidth: 1.6 }),
      Plot.dot(points, { x: "x", y, stroke: "label", fill: "label", symbol: "label", r: 4.5 }),
      Plot.tip(points, Plot.pointer({ x: "x", y, title: (point: Point) =>
        `${point.label}\n${count(point.x)} tokens\nmean KLD ${digits(point.mean)} ± ${digits(point.error, 2)}` })),
    ],
  };
}

function pointsTable(points: Point[], what: string): HTMLElement {
  return foldedTable<Point>([
    { title: "Cache (K / V)", left: true, code: true, text: (point) => point.label },
    { title: what, text: (point) => count(point.x), value: (point) => point.x },
    { title: "Mean KLD", text: (point) => digits(point.mean), value: (point) => point.mean },
    { title: "± SE", text: (point) => digits(point.error, 2), value: (point) => point.error },
  ], points, { caption: `Mean KLD by ${what.toLowerCase()}` });
}

function byContext(cells: Cell[], lines: string[], state: State): HTMLElement | null {
  const contexts = distinct(cells.map((cell) => cell.context));
  if (contexts.length < 2) return null;
  const points = contexts.flatMap((context) => best(cells.filter((cell) => cell.context === context)))
    .filter((cell) => lines.includes(cell.label))
    .map((cell) => ({ label: cell.label, x: cell.context!, mean: cell.metric("kld_mean"), error: cell.metric("kld_se") }))
    .filter((point) => Number.isFinite(point.mean));
  return figure({
    title: "Over the length of the context",
    description: `Lines of the mean KLD of ${lines.join(", ")} over contexts of ${contexts.map(count).join(", ")} tokens.`,
    draw: (width) => drawing(points, lines, { type: "log", base: 2, label: "Context (tokens)", ticks: contexts,
      tickFormat: (d: number) => count(d) }, state, width),
    legend: () => key(lines, lines, thresholdKey(state.threshold)),
    data: pointsTable(points, "Context"),
  });
}

function byPosition(cells: Cell[], lines: string[], state: State): HTMLElement | null {
  const points = cells.filter((cell) => lines.includes(cell.label)).flatMap((cell) => cell.scopes.flatMap((scope): Point[] => {
    const range = /^positions:(\d+)-(\d+)$/.exec(scope);
    if (!range) return [];
    return [{ label: cell.label, x: (Number(range[1]) + Number(range[2])) / 2, mean: cell.metric("kld_mean", scope),
      error: cell.metric("kld_se", scope) }];
  })).filter((point) => Number.isFinite(point.mean)).sort((a, b) => a.x - b.x);
  if (distinct(points.map((point) => point.x)).length < 2) return null;
  return figure({
    title: `Within a window of ${count(state.context)} tokens`,
    description: `Lines of the mean KLD of ${lines.join(", ")} over the position in windows of ${count(state.context)} tokens.`,
    draw: (width) => drawing(points, lines, { label: "Position in the window (tokens)", ticks: 6, tickFormat: (d: number) => count(d) },
      state, width),
    legend: () => key(lines, lines, thresholdKey(state.threshold)),
    data: pointsTable(points, "Position"),
  });
}

export const contextSection: Section = {
  id: "context",
  title: "Quality by context",
  present: (data) => distinct(data.cells.filter(isQuality).map((cell) => cell.context)).length > 1 ||
    data.cells.some((cell) => cell.scopes.some((scope) => scope.startsWith("positions:"))),
  render(data, state) {
    const here = best(chosen(data, state));
    const cells = data.cells.filter((cell) => cell.kind === state.kind && cell.model_id === state.model &&
      cell.corpus_id === state.corpus);
    const selected = initial(here);
    const charts = h("div", { class: "pair" });
    const draw = () => {
      const lines = here.map((cell) => cell.label).filter((label) => selected.has(label));
      charts.replaceChildren(...[byContext(cells, lines, state), byPosition(here, lines, state)].filter((x) => x !== null));
    };
    const boxes = here.map((cell) => {
      const box = h("input", { type: "checkbox", checked: selected.has(cell.label) });
      box.addEventListener("change", () => {
        if (!box.checked) selected.delete(cell.label);
        else selected.add(cell.label);
        limit();
        draw();
      });
      return { box, label: cell.label };
    });
    const limit = () => boxes.forEach(({ box }) => (box.disabled = !box.checked && selected.size >= MAX_LINES));
    limit();
    draw();
    if (charts.childElementCount === 0) return null;
    return [
      h("details", { class: "choose" }, h("summary", {}, `Which caches (up to ${plural(MAX_LINES, "line")})`),
        h("fieldset", {}, h("legend", { class: "visually-hidden" }, "Caches that are drawn"),
          ...boxes.map(({ box, label }) => h("label", {}, box, h("code", {}, label))))),
      charts,
    ];
  },
};
