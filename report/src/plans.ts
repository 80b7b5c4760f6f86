/** Bits that plans give to the heads. */
import * as Plot from "@observablehq/plot";
import { figure, inkOn, ramp, rampKey, type PlotOptions } from "./chart.ts";
import { baseName, distinct, type Data, type Plan } from "./data.ts";
import { h, picker } from "./dom.ts";
import { count, fixed } from "./format.ts";
import type { Section, State } from "./sections.ts";
import { foldedTable } from "./table.ts";

interface Head {
  side: string;
  layer: number;
  head: number;
  bits: number;
  parts: string;
}

function heads(plan: Plan): Head[] {
  return (plan.heads ?? []).flatMap(([side, layer, head, bits, parts]): Head[] => {
    if (side === null || layer === null || head === null || bits === null) return [];
    return [{ side: side === "k" ? "Keys" : side === "v" ? "Values" : side, layer, head, bits, parts: parts ?? "" }];
  });
}

const mean = (list: Head[]) => list.reduce((sum, { bits }) => sum + bits, 0) / list.length;

function drawing(list: Head[], range: [number, number], width: number): PlotOptions {
  const layers = distinct(list.map(({ layer }) => layer));
  const columns = distinct(list.map(({ head }) => head));
  const row = 22;
  const part = (bits: number) => (bits - range[0]) / (range[1] - range[0]);
  return {
    width, height: row * layers.length + 44, marginLeft: 48, marginTop: 8, marginBottom: 36, marginRight: 4,
    x: { type: "band", domain: columns, label: "KV head", tickFormat: String, padding: 0.05 },
    y: { type: "band", domain: layers, label: "Layer", tickFormat: String, padding: 0.08 },
    color: { type: "linear", domain: range, interpolate: ramp() },
    marks: [
      Plot.cell(list, { x: "head", y: "layer", fill: "bits", rx: 2 }),
      width / columns.length < 40 ? null : Plot.text(list, { x: "head", y: "layer", text: (head: Head) => fixed(head.bits, 2),
        fill: (head: Head) => inkOn(part(head.bits)), fontSize: 11 }),
      Plot.tip(list, Plot.pointer({ x: "head", y: "layer", title: ({ layer, head, bits, parts }: Head) =>
        `layer ${layer}, head ${head}\n${fixed(bits, 2)} bits${parts ? `\n${parts.slice(0, 120)}` : ""}` })),
    ],
  };
}

function content(plan: Plan): HTMLElement {
  const all = heads(plan);
  const bits = all.map((head) => head.bits);
  const range: [number, number] = [Math.min(...bits), Math.max(...bits)];
  if (range[0] === range[1]) range[1] += 1;
  return h("div", {},
    h("div", { class: "legend" }, rampKey("Bits of a value", { type: "linear", domain: range, interpolate: ramp() })),
    h("div", { class: "pair" }, ...["Keys", "Values"].map((side) => {
      const list = all.filter((head) => head.side === side);
      if (list.length === 0) return null;
      return figure({
        title: side,
        note: `${fixed(mean(list), 2)} bits on average`,
        description: `Bits of ${side.toLowerCase()} by layer and KV head: from ${fixed(Math.min(...list.map((x) => x.bits)), 2)} to ` +
          `${fixed(Math.max(...list.map((x) => x.bits)), 2)}, ${fixed(mean(list), 2)} on average. The numbers are in the table below.`,
        draw: (width) => drawing(list, range, width),
        className: `plan-${side.toLowerCase()}`,
      });
    })),
    foldedTable<Head>([
      { title: "Side", left: true, text: (head) => head.side },
      { title: "Layer", text: (head) => count(head.layer), value: (head) => head.layer },
      { title: "KV head", text: (head) => count(head.head), value: (head) => head.head },
      { title: "Bits", text: (head) => fixed(head.bits, 2), value: (head) => head.bits },
      { title: "Parts", left: true, code: true, text: (head) => head.parts },
    ], all, { caption: "Bits of each head", id: "plan-table" }));
}

/** Plans that the model was measured with; all where none was. */
function plansOf(data: Data, state: State): Plan[] {
  const used = new Set(data.cells.filter((cell) => cell.model_id === state.model).map((cell) => cell.plan_id));
  const elsewhere = new Set(data.cells.map((cell) => cell.plan_id));
  return data.plans.filter((plan) => heads(plan).length > 0 && (used.has(plan.id) || !elsewhere.has(plan.id)));
}

let pickedPlan = NaN;

export const plansSection: Section = {
  id: "plans",
  title: "Bits of the plans",
  present: (data) => data.plans.some((plan) => heads(plan).length > 0),
  render(data, state) {
    const plans = plansOf(data, state);
    if (plans.length === 0) return null;
    const plan = plans.find(({ id }) => id === pickedPlan) ?? plans[0]!;
    const body = h("div", {}, content(plan));
    return [
      h("p", {}, "A plan gives every layer and KV head its own number of bits: more where a rough key or value would hurt the output."),
      h("div", { class: "pickers" }, picker("Plan", plans.map(({ id, file }) => ({ value: String(id), text: baseName(file) })),
        String(plan.id), (value) => {
          pickedPlan = Number(value);
          body.replaceChildren(content(plans.find(({ id }) => id === pickedPlan) ?? plan));
        })),
      body,
    ];
  },
};
