/** What the page concludes from measurements: fronts and verdicts. */
import type { Cell } from "./data.ts";

/** Members that no other one beats: none has as little of both `x` and `y` and less of one. */
export function paretoFront<T>(items: T[], x: (item: T) => number, y: (item: T) => number): Set<T> {
  const front = new Set<T>();
  const sorted = items
    .filter((item) => Number.isFinite(x(item)) && Number.isFinite(y(item)))
    .sort((a, b) => x(a) - x(b) || y(a) - y(b));
  let least = Infinity;
  let leastX = NaN;
  for (const item of sorted) {
    if (y(item) < least || (y(item) === least && x(item) === leastX)) {
      front.add(item);
      least = y(item);
      leastX = x(item);
    }
  }
  return front;
}

/** How far the perplexity ratio may be from 1, interval included. */
export const RATIO_TOLERANCE = 0.01;

/** Mean KLD plus twice its standard error. */
export function upperKld(cell: Cell): number {
  return cell.metric("kld_mean") + 2 * cell.metric("kld_se");
}

/** Whether a measurement meets the rule of the page; what was not measured does not. */
export function isSafe(cell: Cell, threshold: number): boolean {
  return (
    upperKld(cell) < threshold &&
    cell.metric("ppl_ratio_lo") >= 1 - RATIO_TOLERANCE &&
    cell.metric("ppl_ratio_hi") <= 1 + RATIO_TOLERANCE
  );
}

/** A cache over all settings (text, context, way of feeding) of one model. */
export interface Verdict {
  label: string;
  family: string;
  bits: number;
  safe: number;
  measured: number;
  settings: number;
  worst: Cell;
}

export function setting(cell: Cell): string {
  return JSON.stringify([cell.kind, cell.corpus_id, cell.context]);
}

/** Verdicts of a model's cells (one for each cache and setting), the smallest cache first. */
export function verdicts(cells: Cell[], threshold: number): Verdict[] {
  const settings = new Set(cells.map(setting)).size;
  const byCache = new Map<string, Cell[]>();
  for (const cell of cells) {
    const key = JSON.stringify([cell.k, cell.v]);
    byCache.set(key, [...(byCache.get(key) ?? []), cell]);
  }
  return [...byCache.values()]
    .map((list): Verdict => {
      const worst = list.reduce((a, b) => (upperKld(b) > upperKld(a) || Number.isNaN(upperKld(b)) ? b : a));
      return {
        label: worst.label,
        family: worst.family,
        bits: Math.max(...list.map((cell) => cell.bits)),
        safe: list.filter((cell) => isSafe(cell, threshold)).length,
        measured: list.length,
        settings,
        worst,
      };
    })
    .sort((a, b) => a.bits - b.bits || upperKld(a.worst) - upperKld(b.worst));
}
