/** Quality against size, with the front of caches that no other one beats. */
import { best, type Cell } from "./data.ts";
import { familyKey, familyScale, figure, logDomain, placeLabels, Plot, type PlotOptions } from "./chart.ts";
import { h, picker } from "./dom.ts";
import { bytes, digits, fixed } from "./format.ts";
import { paretoFront } from "./quality.ts";
import { chosen, isQuality, nothing, type Section, type State } from "./sections.ts";
import { foldedTable } from "./table.ts";

interface Measure {
  title: string;
  value(cell: Cell): number;
  /** ends of the interval that is drawn */
  interval?(cell: Cell): [number, number];
}

const MEASURES: Record<string, Measure> = {
  kld_mean: {
    title: "Mean KLD",
    value: (cell) => cell.metric("kld_mean"),
    interval: (cell) => {
      const error = 2 * cell.metric("kld_se");
      return [cell.metric("kld_mean") - error, cell.metric("kld_mean") + error];
    },
  },
  last_quarter: {
    title: "Mean KLD, last quarter",
    value: (cell) => cell.metric("kld_mean", "last_quarter"),
    interval: (cell) => {
      const error = 2 * cell.metric("kld_se", "last_quarter");
      return [cell.metric("kld_mean", "last_quarter") - error, cell.metric("kld_mean", "last_quarter") + error];
    },
  },
  kld_p99: { title: "p99 of the KLD", value: (cell) => cell.metric("kld_p99") },
  top1: {
    title: "Tokens with another top choice, %",
    value: (cell) => 100 * (1 - cell.metric("top1")),
    interval: (cell) => [100 * (1 - cell.metric("top1_hi")), 100 * (1 - cell.metric("top1_lo"))],
  },
};

const SIZES: Record<string, { title: string; value(cell: Cell): number; text(value: number): string }> = {
  bits: { title: "Bits of a value (mean of K and V)", value: (cell) => cell.bits, text: (value) => fixed(value, 2) },
  bytes: { title: "Bytes of K and V for each token", value: (cell) => cell.bytesPerToken, text: (value) => bytes(value) },
};

const picked = { measure: "kld_mean", size: "bits" };

function drawing(cells: Cell[], front: Set<Cell>, state: State, width: number): PlotOptions {
  const measure = MEASURES[picked.measure]!;
  const size = SIZES[picked.size]!;
  const ends = cells.flatMap((cell) => [measure.value(cell), ...(measure.interval?.(cell).slice(1) ?? [])]);
  const threshold = picked.measure === "kld_mean" || picked.measure === "last_quarter" ? [state.threshold] : [];
  const domain = logDomain([...ends, ...threshold]);
  const y = (cell: Cell) => Math.max(measure.value(cell), domain[0]);
  const whiskers = measure.interval
    ? cells.filter((cell) => measure.interval!(cell)[1] > domain[0] && Number.isFinite(measure.interval!(cell)[0])) : [];
  const narrow = width < 560;
  const options: PlotOptions = {
    width, height: narrow ? 380 : 460, marginLeft: 64, marginRight: 24, marginBottom: 44,
    x: { type: "log", label: size.title, ticks: picked.size === "bits" ? [2, 3, 4, 5, 6, 8, 12, 16] : 6,
      tickFormat: picked.size === "bits" ? (d: number) => String(d) : (d: number) => bytes(d), inset: 24, grid: true },
    y: { type: "log", domain, label: measure.title, grid: true, ticks: 6, tickFormat: (d: number) => digits(d, 1) },
    color: familyScale.color,
    symbol: familyScale.symbol,
  };
  const sorted = [...front].sort((a, b) => size.value(a) - size.value(b));
  const frame = Plot.plot({ ...options, marks: [Plot.dot(cells, { x: size.value, y })] });
  const [toX, toY] = [frame.scale("x")!, frame.scale("y")!];
  const labelled = [...sorted, ...(narrow ? [] : cells.filter((cell) => !front.has(cell)))];
  const placed = placeLabels(labelled.map((cell) => ({ x: toX.apply(size.value(cell)), y: toY.apply(y(cell)), text: cell.label })),
    { width, height: options.height! });
  const text = (cell: Cell) => `${cell.label}\n${size.title}: ${size.text(size.value(cell))}\n${measure.title}: ` +
    `${digits(measure.value(cell))}${front.has(cell) ? "\nno other cache is better in both" : ""}`;
  return {
    ...options,
    marks: [
      ...threshold.map((value) => Plot.ruleY([value], { stroke: "var(--threshold)", strokeDasharray: "6 4" })),
      ...threshold.map((value) => Plot.text([`threshold ${value}`], { y: [value], frameAnchor: "right", textAnchor: "end",
        dy: -8, fill: "var(--threshold)" })),
      Plot.line(sorted, { x: size.value, y, stroke: "var(--front)", strokeWidth: 2, curve: "linear", ariaLabel: "front" }),
      Plot.ruleX(whiskers, { x: size.value, y1: (cell: Cell) => Math.max(measure.interval!(cell)[0], domain[0]),
        y2: (cell: Cell) => measure.interval!(cell)[1], stroke: "family", strokeOpacity: 0.7 }),
      Plot.dot(cells.filter((cell) => !front.has(cell)), { x: size.value, y, stroke: "family", symbol: "family", r: 4.5,
        strokeWidth: 1.6, fill: "var(--card)", ariaLabel: "other caches" }),
      Plot.dot(sorted, { x: size.value, y, fill: "family", stroke: "family", symbol: "family", r: 5.5, ariaLabel: "caches on the front" }),
      ...labelled.map((cell, i) => placed[i] === null || placed[i] === undefined ? null
        : Plot.text([cell], { x: size.value, y, text: (c: Cell) => c.label, dx: placed[i]!.dx, dy: placed[i]!.dy,
          textAnchor: placed[i]!.anchor, fill: front.has(cell) ? "var(--ink)" : "var(--soft)",
          fontWeight: front.has(cell) ? 600 : 400 })),
      Plot.tip(cells, Plot.pointer({ x: size.value, y, title: text })),
    ],
  };
}

function chart(cells: Cell[], state: State): HTMLElement {
  const measure = MEASURES[picked.measure]!;
  const size = SIZES[picked.size]!;
  const shown = cells.filter((cell) => Number.isFinite(measure.value(cell)) && Number.isFinite(size.value(cell)));
  const front = paretoFront(shown, size.value, measure.value);
  const names = [...front].sort((a, b) => size.value(a) - size.value(b)).map((cell) => cell.label);
  const zero = shown.some((cell) => measure.value(cell) <= 0) ? " A value of 0 is drawn on the lower edge." : "";
  const element = figure({
    title: `${measure.title} against ${picked.size === "bits" ? "bits of a value" : "bytes for each token"}`,
    description: `Scatter plot of ${shown.length} caches, ${measure.title} against ${size.title}, both on log scales. On the front, ` +
      `where no other cache is both smaller and better: ${names.join(", ")}.`,
    note: "Further down is better, further left is smaller. Filled symbols on the line: no other cache is both smaller and better. " +
      `Hollow symbols: some other cache is. Vertical lines: the interval.${zero}`,
    draw: (width) => drawing(shown, front, state, width),
    legend: () => familyKey(new Set(shown.map((cell) => cell.family))),
    data: foldedTable<Cell>([
      { title: "Cache (K / V)", left: true, code: true, text: (cell) => cell.label },
      { title: "On the front", left: true, text: (cell) => (front.has(cell) ? "yes" : "no") },
      { title: size.title, text: (cell) => size.text(size.value(cell)), value: size.value },
      { title: measure.title, text: (cell) => digits(measure.value(cell)), value: measure.value },
      ...(measure.interval ? [{ title: "Interval", text: (cell: Cell) => measure.interval!(cell).map((x) => digits(x)).join(" to "),
        value: (cell: Cell) => measure.interval!(cell)[1] }] : []),
    ], shown, { caption: `${measure.title} against size`, sorted: 2, id: "size-data" }),
  });
  element.dataset.front = JSON.stringify(names);
  return element;
}

export const sizeSection: Section = {
  id: "size",
  title: "Quality against size",
  present: (data) => data.cells.some(isQuality),
  render(data, state) {
    const cells = best(chosen(data, state));
    if (cells.length === 0) return [nothing("Quality")];
    const body = h("div");
    const choose = (of: Record<string, { title: string }>, name: keyof typeof picked, label: string) =>
      picker(label, Object.entries(of).map(([value, { title }]) => ({ value, text: title })), picked[name], (value) => {
        picked[name] = value;
        body.replaceChildren(chart(cells, state));
      });
    body.append(chart(cells, state));
    return [h("div", { class: "pickers" }, choose(MEASURES, "measure", "Quality"), choose(SIZES, "size", "Size")), body];
  },
};

