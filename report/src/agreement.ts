/** Greedy generations compared with those of an f16 cache. */
import { baseName, type Cell } from "./data.ts";
import { h } from "./dom.ts";
import { count, digits, fixed } from "./format.ts";
import type { Section } from "./sections.ts";
import { table, type Column } from "./table.ts";

/** Counts as such, shares and means with four digits. */
const number = (value: number) => (Number.isInteger(value) ? count(value) : digits(value, 4));

/** A value with its standard error and its 95 % interval, where they were measured: "114.6 ± 3.1", "0.874 [0.74, 0.95]". */
function withSpread(cell: Cell, scope: string, name: string): string {
  const [value, error, low, high] = ["", "_se", "_lo", "_hi"].map((end) => cell.metric(name + end, scope));
  return number(value!) + (Number.isFinite(error) ? ` ± ${digits(error!, 2)}` : "") +
    (Number.isFinite(low) && Number.isFinite(high) ? ` [${digits(low!)}, ${digits(high!)}]` : "");
}

/** "agreement_length" -> "agreement length" */
const words = (name: string) => name.replaceAll("_", " ");

export const agreementSection: Section = {
  id: "agreement",
  title: "Agreement of generated text",
  present: (data) => data.cells.some((cell) => cell.kind === "agreement"),
  render(data, state) {
    const cells = data.cells.filter((cell) => cell.kind === "agreement" && cell.model_id === state.model);
    if (cells.length === 0) return null;
    const scoped = cells.flatMap((cell) => cell.scopes.map((scope) => ({ cell, scope })));
    const several = new Set(scoped.map(({ scope }) => scope)).size > 1;
    const names = data.metric_names.filter((name) => scoped.some(({ cell, scope }) => Number.isFinite(cell.metric(name, scope))));
    const of = (name: string) => name.replace(/_(se|lo|hi)$/, "");
    const values = names.filter((name) => of(name) === name || !names.includes(of(name)));
    type Row = { cell: Cell; scope: string };
    const columns: Column<Row>[] = [
      { title: "Cache (K / V)", left: true, code: true, text: ({ cell }) => cell.label },
      { title: "Prompts", left: true, text: ({ cell }) => baseName(data.corpora.find(({ id }) => id === cell.corpus_id)?.file ?? null) },
      ...(several ? [{ title: "Part", left: true, text: ({ scope }: Row) => scope }] : []),
      { title: "Bits of a value", text: ({ cell }) => fixed(cell.bits, 2), value: ({ cell }) => cell.bits },
      ...values.map((name): Column<Row> => ({ title: words(name), text: ({ cell, scope }) => withSpread(cell, scope, name),
        value: ({ cell, scope }) => cell.metric(name, scope) })),
    ];
    return [
      h("p", {}, "The same prompts were continued greedily with each cache and with f16. After the first different token two texts go " +
        "their own ways, so a short agreement alone is no error; characters of scripts that the f16 text does not use are."),
      table(columns, scoped, { caption: "Generations against those with an f16 cache", sorted: columns.findIndex(({ title }) =>
        title === "Bits of a value"), id: "agreement-table" }),
    ];
  },
};
