/** Key channels with large means: what makes keys hard to store. */
import * as Plot from "@observablehq/plot";
import { figure, logTicks, ramp, rampKey, type PlotOptions } from "./chart.ts";
import { baseName, modelName, type ChannelMap, type Data } from "./data.ts";
import { copyButton, h, picker } from "./dom.ts";
import { count, digits } from "./format.ts";
import type { Section, State } from "./sections.ts";
import { foldedTable, toTsv, type Column } from "./table.ts";

interface Channel {
  layer: number;
  head: number;
  channel: number;
  row: number;
  mean: number;
  std: number;
}

function channels(map: ChannelMap): Channel[] {
  return map.mean.map((mean, i): Channel => {
    const row = Math.floor(i / map.channels);
    return { layer: Math.floor(row / map.kv_heads), head: row % map.kv_heads, channel: i % map.channels, row,
      mean: mean ?? NaN, std: map.std[i] ?? NaN };
  }).filter(({ mean, std }) => Number.isFinite(mean) || Number.isFinite(std));
}

const VALUES: Record<string, { title: string; value(channel: Channel): number }> = {
  mean: { title: "|mean|", value: ({ mean }) => Math.abs(mean) },
  std: { title: "Standard deviation", value: ({ std }) => std },
  ratio: { title: "|mean| / deviation", value: ({ mean, std }) => Math.abs(mean) / std },
};
const MOST = 40;

const picked = { value: "mean", corpus: NaN };

/** From the lower tail of the values to their maximum, on a log scale. */
function domain(list: Channel[], value: (channel: Channel) => number): [number, number] {
  const sorted = list.map(value).filter((x) => x > 0 && Number.isFinite(x)).sort((a, b) => a - b);
  if (sorted.length === 0) return [0.1, 1];
  const low = sorted[Math.floor(sorted.length * 0.1)]!;
  const high = sorted[sorted.length - 1]!;
  return low < high ? [Math.max(low, high * 1e-4), high] : [low / 2, high];
}

function drawing(list: Channel[], map: ChannelMap, width: number): PlotOptions {
  const { title, value } = VALUES[picked.value]!;
  const rows = map.layers * map.kv_heads;
  const height = Math.max(4, Math.min(12, Math.round(900 / rows)));
  const every = Math.ceil(14 / (height * map.kv_heads));
  const step = Math.ceil((map.channels * 30) / width / 8) * 8;
  const shades = domain(list, value);
  // An image of one pixel for each channel: as many elements would take seconds for a large model.
  const pixels = new Array<number>(rows * map.channels).fill(NaN);
  for (const channel of list) {
    if (Number.isFinite(value(channel))) pixels[channel.row * map.channels + channel.channel] = Math.max(value(channel), shades[0]);
  }
  return {
    width, height: rows * height + 48, marginLeft: 44, marginTop: 8, marginBottom: 40, marginRight: 8,
    x: { domain: [0, map.channels], label: "Channel", labelAnchor: "center", labelArrow: "none",
      ticks: Array.from({ length: Math.ceil(map.channels / step) }, (_, i) => i * step + 0.5), tickFormat: (x: number) => String(x - 0.5) },
    y: { domain: [rows, 0], tickSize: 3, labelAnchor: "center", labelArrow: "none",
      label: map.kv_heads > 1 ? `Layer (${map.kv_heads} KV heads each)` : "Layer",
      ticks: Array.from({ length: Math.ceil(map.layers / every) }, (_, i) => i * every * map.kv_heads + 0.5),
      tickFormat: (y: number) => String((y - 0.5) / map.kv_heads) },
    color: { type: "log", domain: shades, clamp: true, interpolate: ramp() },
    marks: [
      Plot.raster(pixels, { width: map.channels, height: rows, imageRendering: "pixelated" }),
      // Between layers, where heads of the same layer would else not be seen to belong together.
      map.kv_heads > 1 && height > 5 ? Plot.ruleY(Array.from({ length: map.layers - 1 }, (_, i) => (i + 1) * map.kv_heads),
        { stroke: "var(--card)", strokeWidth: 1.5 }) : null,
      // The text is made when it is shown.
      Plot.tip(list, Plot.pointer({ x: (channel: Channel) => channel.channel + 0.5, y: (channel: Channel) => channel.row + 0.5,
        title: (channel: Channel) => channel, format: { title: (channel: Channel) =>
          `layer ${channel.layer}, head ${channel.head}, channel ${channel.channel}\nmean ${digits(channel.mean)}\n` +
          `deviation ${digits(channel.std)}\n${title} ${digits(value(channel))}` } })),
    ],
  };
}

const columns: Column<Channel>[] = [
  { title: "Layer", text: ({ layer }) => count(layer), value: ({ layer }) => layer },
  { title: "KV head", text: ({ head }) => count(head), value: ({ head }) => head },
  { title: "Channel", text: ({ channel }) => count(channel), value: ({ channel }) => channel },
  { title: "Mean", text: ({ mean }) => digits(mean), value: ({ mean }) => mean },
  { title: "Deviation", text: ({ std }) => digits(std), value: ({ std }) => std },
  { title: "|mean| / deviation", text: (channel) => digits(VALUES.ratio!.value(channel)), value: VALUES.ratio!.value },
];

function content(data: Data, map: ChannelMap): HTMLElement {
  const list = channels(map);
  const { title, value } = VALUES[picked.value]!;
  const most = [...list].sort((a, b) => value(b) - value(a) || 0).slice(0, MOST);
  const top = most[0];
  const model = modelName(data.models.find(({ id }) => id === map.model_id));
  const heading = `${title} of the key channels`;
  return h("div", {},
    figure({
      title: heading,
      description: `Heat map of ${model}: ${map.layers} layers of ${map.kv_heads} KV heads by ${map.channels} channels. ` +
        (top ? `The largest is ${digits(value(top))} in layer ${top.layer}, head ${top.head}, channel ${top.channel}. ` : "") +
        "The largest are in the table below.",
      draw: (width) => drawing(list, map, width),
      legend: () => rampKey(title, { type: "log", domain: domain(list, value), interpolate: ramp(),
        tickFormat: (d: number) => digits(d, 1) }, logTicks(domain(list, value))),
      minWidth: 420,
      className: "heat",
    }),
    foldedTable(columns, most, { caption: `The ${most.length} channels with the largest ${title.toLowerCase()}` },
      "The largest as a table"),
    h("p", { class: "buttons" }, copyButton("Copy all channels as TSV", `all ${count(list.length)} channels`,
      () => toTsv(columns, list))));
}

function pick(data: Data, state: State): ChannelMap[] {
  return data.channels.filter((map) => map.model_id === state.model);
}

export const outliersSection: Section = {
  id: "outliers",
  title: "Outlier channels of keys",
  present: (data) => data.channels.length > 0,
  render(data, state) {
    const maps = pick(data, state);
    if (maps.length === 0) return null;
    const map = maps.find(({ corpus_id }) => corpus_id === picked.corpus) ??
      maps.find(({ corpus_id }) => corpus_id === state.corpus) ?? maps[0]!;
    const body = h("div", {}, content(data, map));
    const redraw = () => body.replaceChildren(content(data, maps.find(({ corpus_id }) => corpus_id === picked.corpus) ?? map));
    return [
      h("p", {}, "Keys before rotation by position. A channel whose mean is far larger than its deviation carries almost nothing but a " +
        "constant, yet a scale shared with other channels has to cover it. Caches that take the mean out first do not pay for it."),
      h("div", { class: "pickers" },
        picker("Shown", Object.entries(VALUES).map(([name, { title }]) => ({ value: name, text: title })), picked.value, (name) => {
          picked.value = name;
          redraw();
        }),
        picker("Measured on", maps.map(({ corpus_id }) => ({ value: String(corpus_id),
          text: baseName(data.corpora.find(({ id }) => id === corpus_id)?.file ?? null) })), String(map.corpus_id), (corpus) => {
          picked.corpus = Number(corpus);
          redraw();
        })),
      body,
    ];
  },
};
