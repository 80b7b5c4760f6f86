/** Builds the page from the data in it. */
import { agreementSection } from "./agreement.ts";
import { redrawAll } from "./chart.ts";
import { contextSection } from "./context.ts";
import { baseName, distinct, modelName, readData, type Cell, type Data } from "./data.ts";
import { h, picker, type Choice } from "./dom.ts";
import { count, plural } from "./format.ts";
import { outliersSection } from "./outliers.ts";
import { plansSection } from "./plans.ts";
import { resultsSection } from "./results.ts";
import { retrievalSection } from "./retrieval.ts";
import { safeSection } from "./safe.ts";
import { FEEDING, isQuality, type Section, type State } from "./sections.ts";
import { sizeSection } from "./size.ts";
import { commandsSection, sourcesSection } from "./sources.ts";
import { appearance } from "./theme.ts";

const data: Data = readData(document.getElementById("data")!.textContent ?? "");
const state: State = { model: NaN, corpus: NaN, context: NaN, kind: "", threshold: 0.01 };

const sections: Section[] = [
  safeSection((threshold) => {
    state.threshold = threshold;
    renderAll();
    document.querySelector<HTMLElement>("#safe select")?.focus();
  }),
  sizeSection, contextSection, resultsSection, retrievalSection, agreementSection, plansSection, outliersSection,
  commandsSection, sourcesSection,
].filter((section) => section.present(data));

/** Cells that the pickers so far leave. */
function left(...names: (keyof State)[]): Cell[] {
  const of: Record<string, (cell: Cell) => unknown> = { model: (cell) => cell.model_id, corpus: (cell) => cell.corpus_id,
    context: (cell) => cell.context, kind: (cell) => cell.kind };
  return data.cells.filter((cell) => isQuality(cell) && names.every((name) => of[name]!(cell) === state[name]));
}

/** The old choice where there still is one, else the first. */
function keep<T>(choices: T[], value: T, fallback: T): T {
  return choices.includes(value) ? value : (choices[0] ?? fallback);
}

/** Each picker offers what was measured for the choices before it. */
function pickers(): HTMLElement[] {
  const elements: HTMLElement[] = [];
  const add = <K extends "model" | "corpus" | "context" | "kind">(name: K, label: string, values: State[K][],
      text: (value: State[K]) => string, fallback: State[K]) => {
    state[name] = keep(values, state[name], fallback);
    if (values.length === 0) return;
    const choices: Choice[] = values.map((value) => ({ value: String(value), text: text(value) }));
    elements.push(picker(label, choices, String(state[name]), (chosen) => {
      state[name] = values.find((value) => String(value) === chosen)!;
      renderAll(name);
    }));
    elements.at(-1)!.dataset.name = name;
  };
  const models = distinct(data.cells.map((cell) => cell.model_id));
  add("model", "Model", models.length > 0 ? models : data.models.map(({ id }) => id),
    (id) => modelName(data.models.find((model) => model.id === id)), NaN);
  add("corpus", "Text", distinct(left("model").map((cell) => cell.corpus_id)),
    (id) => baseName(data.corpora.find((corpus) => corpus.id === id)?.file ?? null), NaN);
  add("context", "Context", distinct(left("model", "corpus").map((cell) => cell.context)), (n) => `${count(n)} tokens`, NaN);
  add("kind", "Fed", [...new Set(left("model", "corpus", "context").map((cell) => cell.kind!))].sort(),
    (kind) => FEEDING[kind] ?? kind, "");
  return elements;
}

const toolbar = h("div", { class: "toolbar", role: "region", "aria-label": "What is shown" });
const bodies = new Map(sections.map((section) => [section.id, h("div", { class: "body" })]));

function renderAll(changed?: string): void {
  toolbar.replaceChildren(...pickers());
  for (const section of sections) {
    const content = section.render(data, state);
    const element = document.getElementById(section.id)!;
    element.hidden = content === null;
    document.querySelector<HTMLElement>(`nav [href="#${section.id}"]`)!.parentElement!.hidden = content === null;
    bodies.get(section.id)!.replaceChildren(...(content ?? []).filter((node) => node !== null));
  }
  if (changed) toolbar.querySelector<HTMLElement>(`[data-name="${changed}"] select`)?.focus();
}

function header(): HTMLElement {
  const finished = data.cells.map((cell) => cell.finished ?? "").filter((text) => /^\d{4}-\d\d-\d\d/.test(text)).sort();
  const days = finished.length > 0 ? [...new Set([finished[0]!, finished.at(-1)!].map((text) => text.slice(0, 10)))] : [];
  return h("header", { class: "page" },
    h("div", { class: "headline" },
      h("div", {}, h("h1", {}, "KV cache quality"),
        h("p", { class: "sub" }, [plural(data.cells.length, "measurement"), plural(data.models.length, "model"),
          plural(data.corpora.length, "text"), ...(days.length > 0 ? [days.join(" to ")] : [])].join(" · "))),
      appearance(redrawAll)),
    h("nav", { "aria-label": "Sections" }, h("ul", {}, ...sections.map(({ id, title }) =>
      h("li", {}, h("a", { href: `#${id}` }, title))))));
}

function build(): void {
  document.title = `KV cache quality: ${data.models.map(modelName).join(", ") || data.database}`;
  const main = h("main", { id: "main", tabindex: -1 }, ...sections.map(({ id, title }) =>
    h("section", { id, "aria-labelledby": `${id}-title` }, h("h2", { id: `${id}-title` }, title), bodies.get(id)!)));
  document.body.prepend(h("a", { class: "skip", href: "#main" }, "Skip to the content"), header(), toolbar, main,
    h("footer", {}, h("p", {}, `Made by kvant ${data.version} from ${data.database}. Charts by Observable Plot and D3 (ISC licence).`)));
  if (data.cells.length === 0) main.prepend(h("p", { class: "nothing" }, "The database holds no finished measurement yet."));
  renderAll();
}

build();
