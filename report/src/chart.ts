/** What all charts share: a figure with words for those who do not see it, colours of the theme, redrawing. */
import * as Plot from "@observablehq/plot";
import { FAMILIES } from "./data.ts";
import { freshId, h } from "./dom.ts";

export type PlotOptions = Plot.PlotOptions;
export type Drawing = (SVGSVGElement | HTMLElement) & Plot.Plot;

const redraws = new Map<HTMLElement, () => void>();

/** Draws all charts anew, in the colours of the moment; forgets those that have left the page. */
export function redrawAll(): void {
  for (const [element, draw] of redraws) {
    if (element.isConnected) draw();
    else redraws.delete(element);
  }
}

const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    if (!(target instanceof HTMLElement)) continue;
    if (Number(target.dataset.width) !== Math.round(contentRect.width)) redraws.get(target)?.();
  }
});

/**
 * What Plot draws, fit for the page. Its few style rules are in style.css, as the page's policy refuses them in the
 * drawing. The names of its marks become classes: as labels they would stand on elements that may have none.
 */
function fit<T extends Element>(drawing: T): T {
  drawing.querySelectorAll("style").forEach((style) => style.remove());
  drawing.querySelectorAll("g[aria-label]").forEach((mark) => {
    mark.classList.add(mark.getAttribute("aria-label")!.replaceAll(" ", "-"));
    mark.removeAttribute("aria-label");
  });
  return drawing;
}

export interface FigureOptions {
  /** heading of the figure */
  title: string;
  /** what the drawing shows, for those who do not see it */
  description: string;
  /** a line below it for everyone */
  note?: string;
  draw(width: number): PlotOptions;
  legend?(): Element | null;
  /** below: the same as a table */
  data?: HTMLElement;
  className?: string;
  /** drawn no narrower than this; the figure scrolls then */
  minWidth?: number;
}

export function figure(options: FigureOptions): HTMLElement {
  const canvas = h("div", { class: "canvas" });
  const legend = h("div", { class: "legend" });
  const title = freshId("figure");
  const element = h("figure", { class: options.className, "aria-labelledby": title },
    h("figcaption", {}, h("h3", { id: title }, options.title), options.note ? h("p", {}, options.note) : null),
    legend, canvas, options.data);
  const draw = () => {
    const width = Math.round(canvas.clientWidth || 640);
    canvas.dataset.width = String(width);
    const plot = fit(Plot.plot({ className: "plot", ...options.draw(Math.max(width, options.minWidth ?? 0)) }));
    plot.setAttribute("role", "img");
    plot.setAttribute("aria-label", options.description);
    canvas.replaceChildren(plot);
    canvas.classList.toggle("wide", width < (options.minWidth ?? 0));
    if (canvas.classList.contains("wide")) {
      canvas.tabIndex = 0;
      canvas.setAttribute("role", "region");
      canvas.setAttribute("aria-labelledby", title);
    }
    const key = options.legend?.();
    legend.replaceChildren(...(key ? [fit(key)] : []));
  };
  redraws.set(canvas, draw);
  resized.observe(canvas);
  // As soon as the figure is in its place, also where it is not on the screen: screen readers and printers see it there.
  queueMicrotask(draw);
  return element;
}

/** Number of categorical colours in style.css: --c0, --c1, ... */
const COLOURS = 9;
export const categorical = Array.from({ length: COLOURS }, (_, i) => `var(--c${i})`);
export const symbols: Plot.SymbolType[] = ["circle", "square", "triangle", "diamond", "cross", "star", "wye", "hexagon",
  "asterisk"];

/** One colour and one symbol for each family of caches. */
export const familyScale = {
  color: { domain: [...FAMILIES], range: categorical },
  symbol: { domain: [...FAMILIES], range: symbols },
};

/** A key of the families that occur, and more entries. */
export function familyKey(present: Set<string>, ...more: HTMLElement[]): Element {
  return key(FAMILIES.filter((name) => present.has(name)), FAMILIES.map(String), ...more);
}

/** A list of names, each with its symbol and colour: those of its place in `domain`; then more entries. */
export function key(names: string[], domain: string[], ...more: HTMLElement[]): Element {
  const entry = (name: string) => {
    const place = domain.indexOf(name);
    const mark = fit(Plot.plot({
      className: "plot", width: 16, height: 16, margin: 0, axis: null, inset: 0, x: { domain: [-1, 1] }, y: { domain: [-1, 1] },
      marks: [Plot.dot([[0, 0]], { r: 5, symbol: symbols[place % symbols.length], stroke: categorical[place % COLOURS],
        fill: categorical[place % COLOURS] })],
    }));
    mark.setAttribute("aria-hidden", "true");
    return h("li", {}, mark, name);
  };
  return h("ul", { class: "key" }, ...names.map(entry), ...more);
}

function property(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function rgb(hex: string): [number, number, number] {
  const n = parseInt(hex.slice(1), 16);
  return [(n >> 16) & 255, (n >> 8) & 255, n & 255];
}

/** The theme's colours from little to much, --ramp0 to --ramp4, as Plot asks for them. */
export function ramp(): (t: number) => string {
  const stops = [0, 1, 2, 3, 4].map((i) => rgb(property(`--ramp${i}`)));
  return (t) => {
    const place = Math.min(Math.max(t, 0), 1) * (stops.length - 1);
    const below = Math.min(Math.floor(place), stops.length - 2);
    const mixed = stops[below]!.map((c, i) => Math.round(c + (stops[below + 1]![i]! - c) * (place - below)));
    return `rgb(${mixed.join(",")})`;
  };
}

/** Black or white, whichever is read better on what ramp() gives for `t`. */
export function inkOn(t: number): string {
  const channel = (c: number) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const [r, g, b] = /(\d+),(\d+),(\d+)/.exec(ramp()(t))!.slice(1).map((c) => channel(Number(c)));
  const luminance = 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
  return (luminance + 0.05) ** 2 > 0.05 * 1.05 ? "#000" : "#fff";
}

/** A colour ramp with its numbers. */
export function rampKey(label: string, scale: Plot.ScaleOptions, ticks?: number[]): Element {
  return fit(Plot.legend({ className: "plot", color: { ...scale, label }, width: 280, height: 44, marginLeft: 16,
    marginRight: 24, ticks }));
}

/** What a log axis is labelled with: decades, or steps within them where there are few. */
export function logTicks([low, high]: [number, number]): number[] {
  const decades = Math.log10(high / low);
  const steps = decades > 3 ? [1] : decades > 1 ? [1, 2, 5] : [1, 2, 3, 5, 7];
  const ticks: number[] = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += Math.ceil(decades / 8)) {
    ticks.push(...steps.map((step) => Number(`${step}e${power}`)));
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/** Around texts in a chart, so that they can be read on lines. */
export const halo = { stroke: "var(--card)", strokeWidth: 4 };

/** A dashed line at each value of y. */
export function thresholdLine(values: number[]): Plot.Markish {
  return Plot.ruleY(values, { stroke: "var(--threshold)", strokeDasharray: "6 4" });
}

/** What it is, for a key. */
export function thresholdKey(value: number): HTMLElement {
  return h("li", {}, h("span", { class: "dash", "aria-hidden": "true" }), `threshold ${value}`);
}

/** Bounds of a log axis that shows all of some values; those of 0 belong on its lower edge. */
export function logDomain(values: number[]): [number, number] {
  const positive = values.filter((value) => value > 0 && Number.isFinite(value));
  if (positive.length === 0) return [1e-6, 1];
  const low = Math.min(...positive);
  const high = Math.max(...positive);
  return [low / 1.6, Math.max(high * 1.4, low * 2)];
}

export interface Label {
  x: number;
  y: number;
  text: string;
}

interface Area {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

/**
 * Where texts go beside points given in pixels, within a box, so that none lies on another, on a point or on what else
 * is `there`; null: no room, or no text.
 */
export function placeLabels(points: Label[], box: Area, there: Area[]):
    ({ dx: number; dy: number; anchor: "start" | "end" | "middle" } | null)[] {
  const taken: Area[] = points.map(({ x, y }) => ({ left: x - 5, right: x + 5, top: y - 5, bottom: y + 5 }));
  taken.push(...there);
  const places = [[8, -11, "start"], [9, 0, "start"], [0, -13, "middle"], [0, 14, "middle"], [8, 11, "start"], [-9, 0, "end"],
    [-8, -11, "end"], [-8, 11, "end"]] as const;
  return points.map((point, index) => {
    if (point.text === "") return null;
    const width = 6.8 * point.text.length + 2;
    for (const [dx, dy, anchor] of places) {
      const left = point.x + dx - (anchor === "end" ? width : anchor === "middle" ? width / 2 : 0);
      const area = { left, right: left + width, top: point.y + dy - 7, bottom: point.y + dy + 7 };
      if (area.left < box.left || area.right > box.right || area.top < box.top || area.bottom > box.bottom) continue;
      const free = taken.every((other, i) => i === index || area.right < other.left || area.left > other.right ||
        area.bottom < other.top || area.top > other.bottom);
      if (!free) continue;
      taken.push(area);
      return { dx, dy, anchor };
    }
    return null;
  });
}
