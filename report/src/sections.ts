/** The parts of the page, in their order. */
import type { Cell, Data } from "./data.ts";
import { h } from "./dom.ts";

/** What the pickers at the top of the page say. */
export interface State {
  model: number;
  corpus: number;
  context: number;
  /** "compare" or "decode" */
  kind: string;
  /** of the mean KLD, below which a cache counts as safe */
  threshold: number;
}

export interface Section {
  id: string;
  title: string;
  /** Whether the database has anything for it. */
  present(data: Data): boolean;
  /** Its content for what is picked; null where there is nothing for that. */
  render(data: Data, state: State): (Node | null)[] | null;
}

/** How the tokens came into the cache, in words. */
export const FEEDING: Record<string, string> = {
  compare: "whole prompt at once (prefill)",
  decode: "one token at a time (decode)",
};

export const isQuality = (cell: Cell) => cell.kind === "compare" || cell.kind === "decode";

/** Measurements of divergence that the pickers choose. */
export function chosen(data: Data, state: State): Cell[] {
  return data.cells.filter((cell) => cell.kind === state.kind && cell.model_id === state.model &&
    cell.corpus_id === state.corpus && cell.context === state.context);
}

export function nothing(what: string): HTMLElement {
  return h("p", { class: "nothing" }, `${what} was not measured for what is picked above.`);
}
