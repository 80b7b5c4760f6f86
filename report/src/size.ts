/** Quality against size, with the front of caches that no other one beats. */
import * as Plot from "@observablehq/plot";
import { best, distinct, type Cell } from "./data.ts";
import { familyKey, familyScale, figure, halo, logDomain, logTicks, placeLabels, thresholdKey, thresholdLine, type PlotOptions } from "./chart.ts";
import { h, picker } from "./dom.ts";
import { bytes, digits, fixed } from "./format.ts";
import { paretoFront } from "./quality.ts";
import { chosen, isQuality, nothing, type Section, type State } from "./sections.ts";
import { foldedTable } from "./table.ts";

interface Measure {
  title: string;
  /** its axis, with the unit */
  axis: string;
  value(cell: Cell): number;
  /** whether the threshold is one of it */
  judged?: boolean;
  /** ends of the interval that is drawn */
  interval?(cell: Cell): [number, number];
  /** what they are */
  spread?: string;
}

const MEASURES: Record<string, Measure> = {
  kld_mean: {
    title: "Mean KLD",
    axis: "Mean KLD (nats)",
    judged: true,
    spread: "two standard errors to both sides",
    value: (cell) => cell.metric("kld_mean"),
    interval: (cell) => {
      const error = 2 * cell.metric("kld_se");
      return [cell.metric("kld_mean") - error, cell.metric("kld_mean") + error];
    },
  },
  last_quarter: {
    title: "Mean KLD, last quarter",
    axis: "Mean KLD of the last quarter (nats)",
    judged: true,
    spread: "two standard errors to both sides",
    value: (cell) => cell.metric("kld_mean", "last_quarter"),
    interval: (cell) => {
      const error = 2 * cell.metric("kld_se", "last_quarter");
      return [cell.metric("kld_mean", "last_quarter") - error, cell.metric("kld_mean", "last_quarter") + error];
    },
  },
  kld_p99: { title: "p99 of the KLD", axis: "p99 of the KLD (nats)", value: (cell) => cell.metric("kld_p99") },
  top1: {
    title: "Tokens with another top choice, %",
    axis: "Tokens with another top choice (%)",
    spread: "the 95 % interval",
    value: (cell) => 100 * (1 - cell.metric("top1")),
    interval: (cell) => [100 * (1 - cell.metric("top1_hi")), 100 * (1 - cell.metric("top1_lo"))],
  },
};

const SIZES: Record<string, { title: string; value(cell: Cell): number; text(value: number): string;
  ticks: number[] }> = {
  bits: { title: "Bits of a value (mean of K and V)", value: (cell) => cell.bits, text: (value) => fixed(value, 2),
    ticks: [1, 1.5, 2, 3, 4, 5, 6, 8, 12, 16, 32] },
  bytes: { title: "Bytes of K and V for each token", value: (cell) => cell.bytesPerToken, text: (value) => bytes(value),
    ticks: Array.from({ length: 40 }, (_, power) => 2 ** power) },
};

/** More caches than this on one chart are told apart by pointing at them; only the front has its names. */
const MAX_LABELS = 60;

const picked = { measure: "kld_mean", size: "bits" };

function drawing(cells: Cell[], front: Set<Cell>, state: State, width: number): PlotOptions {
  const measure = MEASURES[picked.measure]!;
  const size = SIZES[picked.size]!;
  const ends = cells.flatMap((cell) => [measure.value(cell), ...(measure.interval?.(cell).slice(1) ?? [])]);
  const threshold = measure.judged ? [state.threshold] : [];
  const domain = logDomain([...ends, ...threshold]);
  const y = (cell: Cell) => Math.max(measure.value(cell), domain[0]);
  const whiskers = measure.interval
    ? cells.filter((cell) => measure.interval!(cell)[1] > domain[0] && Number.isFinite(measure.interval!(cell)[0])) : [];
  const narrow = width < 560;
  const sizes = cells.map(size.value);
  const sizeDomain: [number, number] = [Math.min(...sizes) / 1.15, Math.max(...sizes) * 1.15];
  const ticks = size.ticks.filter((tick) => tick >= sizeDomain[0] && tick <= sizeDomain[1]);
  const options: PlotOptions = {
    width, height: narrow ? 380 : 460, marginLeft: 64, marginRight: 24, marginBottom: 44,
    x: { type: "log", domain: sizeDomain, label: size.title, grid: true, ticks: ticks.length > 0 ? ticks : distinct(sizes),
      tickFormat: (d: number) => (Number.isInteger(d) && picked.size === "bits" ? String(d) : size.text(d)) },
    y: { type: "log", domain, label: measure.axis, grid: true, ticks: logTicks(domain), tickFormat: (d: number) => digits(d, 1),
      insetBottom: 8 },
    color: familyScale.color,
    symbol: familyScale.symbol,
  };
  const sorted = [...front].sort((a, b) => size.value(a) - size.value(b));
  const frame = Plot.plot({ ...options, marks: [Plot.dot(cells, { x: size.value, y })] });
  const [toX, toY] = [frame.scale("x")!, frame.scale("y")!];
  const labelled = [...sorted, ...cells.filter((cell) => !front.has(cell))];
  const named = (cell: Cell) => front.has(cell) || (!narrow && cells.length <= MAX_LABELS);
  const placed = placeLabels(labelled.map((cell) => ({ x: toX.apply(size.value(cell)), y: toY.apply(y(cell)),
    text: named(cell) ? cell.label : "" })),
    { left: 2, right: width - 2, top: 2, bottom: options.height! - options.marginBottom! },
    logTicks(domain).map((tick) => ({ left: 0, right: options.marginLeft!, top: toY.apply(tick) - 8, bottom: toY.apply(tick) + 8 })));
  const text = (cell: Cell) => `${cell.label}\n${size.title}: ${size.text(size.value(cell))}\n${measure.title}: ` +
    `${digits(measure.value(cell))}${front.has(cell) ? "\nno other cache is better in both" : ""}`;
  return {
    ...options,
    marks: [
      thresholdLine(threshold),
      Plot.line(sorted, { x: size.value, y, stroke: "var(--front)", strokeWidth: 2, curve: "step-after", className: "front" }),
      Plot.ruleX(whiskers, { className: "interval", x: size.value, y1: (cell: Cell) => Math.max(measure.interval!(cell)[0], domain[0]),
        y2: (cell: Cell) => measure.interval!(cell)[1], stroke: "family", strokeOpacity: 0.7 }),
      Plot.dot(cells.filter((cell) => !front.has(cell)), { x: size.value, y, stroke: "family", symbol: "family", r: 4.5,
        strokeWidth: 1.6, fill: "var(--card)", className: "beaten" }),
      Plot.dot(sorted, { x: size.value, y, fill: "family", stroke: "family", symbol: "family", r: 5.5, className: "unbeaten" }),
      ...labelled.map((cell, i) => placed[i] === null || placed[i] === undefined ? null
        : Plot.text([cell], { x: size.value, y, text: (c: Cell) => c.label, dx: placed[i]!.dx, dy: placed[i]!.dy,
          textAnchor: placed[i]!.anchor, ...halo, fill: front.has(cell) ? "var(--ink)" : "var(--soft)",
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
      `Hollow symbols: some other cache is.${measure.spread ? ` Vertical lines: ${measure.spread}.` : ""}${zero}`,
    draw: (width) => drawing(shown, front, state, width),
    legend: () => familyKey(new Set(shown.map((cell) => cell.family)), ...(measure.judged ? [thresholdKey(state.threshold)] : [])),
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

