/** How to measure the same again: commands, and what was measured. */
import { baseName, modelName, type Cell, type Corpus, type Data, type Model } from "./data.ts";
import { copyButton, h } from "./dom.ts";
import { bytes, count, plural } from "./format.ts";
import { chosen, type Section } from "./sections.ts";
import { table, type Column } from "./table.ts";

const KINDS: Record<string, string> = { compare: "Divergence, prefill", decode: "Divergence, decode", retrieval: "Retrieval",
  agreement: "Agreement" };

function distinctCommands(cells: Cell[]): string[] {
  return [...new Set(cells.flatMap((cell) => (cell.command ? [cell.command] : [])))];
}

function list(commands: string[]): HTMLElement {
  return h("ol", { class: "commands" }, ...commands.map((command, index) => h("li", {},
    h("pre", { tabindex: 0, role: "group", "aria-label": `Command ${index + 1}` }, h("code", {}, command)),
    copyButton("Copy", "command", () => command))));
}

function group(title: string, commands: string[], open: boolean): HTMLElement {
  return h("details", { class: "group", open }, h("summary", {}, `${title}: ${plural(commands.length, "command")}`),
    h("p", { class: "buttons" }, copyButton("Copy all", `all commands: ${title}`, () => commands.join("\n") + "\n")), list(commands));
}

export const commandsSection: Section = {
  id: "commands",
  title: "Commands",
  present: (data) => distinctCommands(data.cells).length > 0,
  render(data, state) {
    const here = distinctCommands(chosen(data, state));
    const model = data.cells.filter((cell) => cell.model_id === state.model);
    const kinds = [...new Set(model.map((cell) => cell.kind ?? "?"))];
    return [
      h("p", {}, "Each line measures one row of this page again."),
      here.length > 0 ? group("What is picked above", here, false) : null,
      ...kinds.map((kind) => [kind, distinctCommands(model.filter((cell) => (cell.kind ?? "?") === kind))] as const)
        .filter(([, commands]) => commands.length > 0)
        .map(([kind, commands]) => group(`${KINDS[kind] ?? kind}, ${modelName(data.models.find(({ id }) => id === state.model))}`,
          commands, false)),
    ];
  },
};

function files<Row extends Corpus>(): Column<Row>[] {
  return [
    { title: "File", left: true, text: (row) => baseName(row.file) },
    { title: "Hash", left: true, code: true, whole: true, text: (row) => row.hash ?? "–" },
    { title: "Size", text: (row) => bytes(row.bytes), value: (row) => row.bytes ?? NaN },
    { title: "Path", left: true, code: true, text: (row) => row.file ?? "–" },
  ];
}

function models(data: Data): HTMLElement {
  const number = (title: string, value: (model: Model) => number | null): Column<Model> => ({ title,
    text: (model) => count(value(model)), value: (model) => value(model) ?? NaN });
  return table<Model>([
    { title: "Model", left: true, text: modelName },
    { title: "Architecture", left: true, text: (model) => model.architecture ?? "–" },
    { title: "Weights", left: true, text: (model) => model.weights ?? "–" },
    number("Layers", (model) => model.layers),
    number("Query heads", (model) => model.q_heads),
    number("KV heads", (model) => model.kv_heads),
    number("Head size", (model) => model.head_dim),
    { title: "Size", text: (model) => bytes(model.bytes), value: (model) => model.bytes ?? NaN },
    { title: "Hash", left: true, code: true, whole: true, text: (model) => model.hash ?? "–" },
    { title: "Path", left: true, code: true, text: (model) => model.file ?? "–" },
  ], data.models, { caption: "Models" });
}

export const sourcesSection: Section = {
  id: "sources",
  title: "What was measured",
  present: (data) => data.models.length + data.corpora.length + data.plans.length > 0,
  render: (data) => [
    data.models.length > 0 ? models(data) : null,
    data.corpora.length > 0 ? table(files<Corpus>(), data.corpora, { caption: "Texts" }) : null,
    data.plans.length > 0 ? table(files<Corpus>(), data.plans, { caption: "Plans" }) : null,
  ],
};
