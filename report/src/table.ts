/** Tables that are sorted by their headers, by mouse or keyboard, and copied as TSV or Markdown. */
import { announce, copyButton, freshId, h } from "./dom.ts";
import { count } from "./format.ts";

export interface Column<Row> {
  title: string;
  /** what the header says at length */
  hint?: string;
  text(row: Row): string;
  /** what the column is sorted by; the text where it is not given */
  value?(row: Row): number | string;
  /** names, not numbers */
  left?: boolean;
  code?: boolean;
  /** not broken into lines */
  whole?: boolean;
}

export interface TableOptions {
  caption: string;
  /** index of the column that the rows are in the order of at first */
  sorted?: number;
  descending?: boolean;
  id?: string;
}

function compare(a: number | string, b: number | string): number {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

/** Cells that hold nothing come last in either order. */
function sortRows<Row>(rows: Row[], column: Column<Row>, descending: boolean): Row[] {
  const value = column.value ?? column.text;
  const missing = (row: Row) => Number.isNaN(value(row)) || value(row) === "–";
  return [...rows].sort((a, b) => {
    if (missing(a) || missing(b)) return Number(missing(a)) - Number(missing(b));
    return compare(value(a), value(b)) * (descending ? -1 : 1);
  });
}

/** More rows than these are shown when asked for: browsers take seconds to lay out thousands. */
const ROWS = 500;

const oneLine = (text: string) => text.replace(/[\t\r\n]+/g, " ");

export function toTsv<Row>(columns: Column<Row>[], rows: Row[]): string {
  const lines = [columns.map((column) => column.title), ...rows.map((row) => columns.map((column) => column.text(row)))];
  return lines.map((line) => line.map((text) => oneLine(text).replaceAll("\u2212", "-")).join("\t")).join("\n") + "\n";
}

export function toMarkdown<Row>(columns: Column<Row>[], rows: Row[]): string {
  const line = (texts: string[]) => `| ${texts.map((text) => oneLine(text).replace(/([|\\])/g, "\\$1")).join(" | ")} |`;
  return [
    line(columns.map((column) => column.title)),
    `|${columns.map((column) => (column.left ? "---" : "---:")).join("|")}|`,
    ...rows.map((row) => line(columns.map((column) => column.text(row)))),
  ].join("\n") + "\n";
}

export function table<Row>(columns: Column<Row>[], rows: Row[], options: TableOptions): HTMLElement {
  let sorted = options.sorted ?? -1;
  let descending = options.descending ?? false;
  let shown = sorted >= 0 ? sortRows(rows, columns[sorted]!, descending) : rows;
  let most = ROWS;
  const body = h("tbody");
  const headers = columns.map((column, index) => {
    const arrow = h("span", { class: "arrow", "aria-hidden": "true" });
    const button = h("button", { type: "button", title: column.hint, click: () => sort(index) }, column.title, arrow);
    return h("th", { scope: "col", class: column.left ? "left" : null }, button);
  });

  function fill(): void {
    headers.forEach((header, index) => {
      if (index === sorted) header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      else header.removeAttribute("aria-sort");
      header.querySelector(".arrow")!.textContent = index !== sorted ? "↕" : descending ? "↓" : "↑";
    });
    body.replaceChildren(
      ...shown.slice(0, most).map((row) =>
        h("tr", {}, ...columns.map((column, index) => {
          const text = column.text(row);
          const content = column.code ? h("code", {}, text) : text;
          const attributes = { class: [column.left ? "left" : "", column.whole ? "whole" : ""].join(" ").trim() || null };
          return index === 0 ? h("th", { scope: "row", ...attributes }, content) : h("td", attributes, content);
        })),
      ),
    );
  }
  function sort(index: number): void {
    descending = index === sorted && !descending;
    sorted = index;
    shown = sortRows(rows, columns[index]!, descending);
    fill();
    announce(`Sorted by ${columns[index]!.title}, ${descending ? "descending" : "ascending"}`);
  }

  const rest = h("button", { type: "button", click: () => {
    most = Infinity;
    fill();
    rest.remove();
  } }, `Show all ${count(rows.length)} rows`);
  fill();
  const captionId = freshId("caption");
  return h("div", { class: "table", id: options.id },
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-labelledby": captionId },
      h("table", {}, h("caption", {}, h("span", { id: captionId }, options.caption)), h("thead", {}, h("tr", {}, ...headers)), body)),
    h("p", { class: "buttons" }, rows.length > ROWS ? rest : null,
      copyButton("Copy as TSV", `table: ${options.caption}`, () => toTsv(columns, shown)),
      copyButton("Copy as Markdown", `table: ${options.caption}`, () => toMarkdown(columns, shown))));
}

/** A table behind a line that opens it. */
export function foldedTable<Row>(columns: Column<Row>[], rows: Row[], options: TableOptions, summary = "The same as a table"):
    HTMLElement {
  return h("details", { class: "data" }, h("summary", {}, summary), table(columns, rows, options));
}
