/** The document that `kvant report` puts into the page, and what the sections read off it. */

type Maybe<T> = T | null;

export interface Model {
  id: number;
  hash: Maybe<string>;
  file: Maybe<string>;
  name: Maybe<string>;
  architecture: Maybe<string>;
  weights: Maybe<string>;
  bytes: Maybe<number>;
  layers: Maybe<number>;
  q_heads: Maybe<number>;
  kv_heads: Maybe<number>;
  head_dim: Maybe<number>;
}

export interface Corpus {
  id: number;
  hash: Maybe<string>;
  file: Maybe<string>;
  bytes: Maybe<number>;
}

/** side, layer, KV head, bits of a value, parts */
export type PlanHead = [Maybe<string>, Maybe<number>, Maybe<number>, Maybe<number>, Maybe<string>];

export interface Plan extends Corpus {
  heads?: PlanHead[];
}

/** keys, depth, trials, found, low, high */
export type RetrievalRow = [Maybe<number>, Maybe<number>, Maybe<number>, Maybe<number>, Maybe<number>, Maybe<number>];

interface RawCell {
  id: number;
  kind: Maybe<string>;
  model_id: Maybe<number>;
  corpus_id: Maybe<number>;
  plan_id: Maybe<number>;
  k: Maybe<string>;
  v: Maybe<string>;
  context: Maybe<number>;
  chunks: Maybe<number>;
  reference: Maybe<string>;
  precision: Maybe<string>;
  version: Maybe<string>;
  command: Maybe<string>;
  tokens: Maybe<number>;
  k_bpv: Maybe<number>;
  v_bpv: Maybe<number>;
  cache_bytes: Maybe<number>;
  constant_bytes: Maybe<number>;
  seconds: Maybe<number>;
  finished: Maybe<string>;
  /** of each scope, values in the order of Document.metric_names */
  metrics?: Record<string, Maybe<number>[]>;
  retrieval?: RetrievalRow[];
}

/** Mean and standard deviation of the key channels before RoPE, as lists over layer, head and channel. */
export interface ChannelMap {
  model_id: number;
  corpus_id: number;
  layers: number;
  kv_heads: number;
  channels: number;
  mean: Maybe<number>[];
  std: Maybe<number>[];
}

interface Document {
  version: string;
  database: string;
  models: Model[];
  corpora: Corpus[];
  plans: Plan[];
  metric_names: string[];
  cells: RawCell[];
  channels: ChannelMap[];
}

/** A measurement, with what charts and tables ask of it. */
export interface Cell extends Omit<RawCell, "metrics" | "retrieval"> {
  /** "lm4", "lm4 / q8_0", "plan standin-3bit" */
  label: string;
  family: string;
  /** of a value, averaged over K and V */
  bits: number;
  /** of K and V together, for each token; NaN where the model is not known */
  bytesPerToken: number;
  retrieval: RetrievalRow[];
  metric(name: string, scope?: string): number;
  scopes: string[];
}

export interface Data extends Omit<Document, "cells"> {
  cells: Cell[];
}

/** Families of caches: what is drawn in one colour and one symbol. */
export const FAMILIES = ["floating point", "blocks (q)", "rotated blocks", "codes (lm)", "codes (uni)", "codes (tcq)",
  "flex", "plan", "other"] as const;

function family(k: string): string {
  if (k.startsWith("plan:")) return "plan";
  if (/^(f16|f32|bf16)/.test(k)) return "floating point";
  if (k.startsWith("rot-")) return "rotated blocks";
  if (k.startsWith("flex")) return "flex";
  if (k.startsWith("lm")) return "codes (lm)";
  if (k.startsWith("uni")) return "codes (uni)";
  if (k.startsWith("tcq")) return "codes (tcq)";
  return /^q\d/.test(k) ? "blocks (q)" : "other";
}

/** The last part of a path. */
export function baseName(path: string | null): string {
  return path?.replace(/^.*[\\/](?=.)/, "") ?? "?";
}

function short(spec: string | null): string {
  if (spec === null) return "?";
  const text = spec.startsWith("plan:") ? `plan ${baseName(spec.slice(5)).replace(/\.gguf$/, "")}` : spec;
  return text.length > 48 ? `${text.slice(0, 47)}…` : text;
}

export function modelName(model: Model | undefined): string {
  return model?.name || baseName(model?.file ?? null).replace(/\.gguf$/, "");
}

/** Models with the same name get the type of their weights behind it. */
function tellApart(models: Model[]): void {
  const names = models.map(modelName);
  models.forEach((model, i) => {
    const shared = names.filter((name) => name === names[i]).length > 1;
    if (shared && model.weights) model.name = `${names[i]} (${model.weights})`;
  });
}

export function readData(text: string): Data {
  const document = JSON.parse(text) as Document;
  tellApart(document.models);
  const models = new Map(document.models.map((model) => [model.id, model]));
  const place = new Map(document.metric_names.map((name, index) => [name, index]));
  const cells = document.cells.map((raw): Cell => {
    const { metrics = {}, retrieval = [], ...rest } = raw;
    const model = models.get(raw.model_id ?? NaN);
    const values = (model?.layers ?? NaN) * (model?.kv_heads ?? NaN) * (model?.head_dim ?? NaN);
    const sum = (raw.k_bpv ?? NaN) + (raw.v_bpv ?? NaN);
    return {
      ...rest,
      retrieval,
      label: raw.k === raw.v ? short(raw.k) : `${short(raw.k)} / ${short(raw.v)}`,
      family: family(raw.k ?? ""),
      bits: sum / 2,
      bytesPerToken: (sum / 8) * values,
      scopes: Object.keys(metrics),
      metric: (name, scope = "all") => metrics[scope]?.[place.get(name) ?? -1] ?? NaN,
    };
  });
  return { ...document, cells };
}

/** One cell of each cache: that over the most tokens, and of these the latest. */
export function best(cells: Cell[]): Cell[] {
  const chosen = new Map<string, Cell>();
  const rank = (cell: Cell): [number, string] => [cell.tokens ?? 0, cell.finished ?? ""];
  for (const cell of cells) {
    const key = JSON.stringify([cell.k, cell.v]);
    const other = chosen.get(key);
    const [tokens, finished] = rank(cell);
    const [otherTokens, otherFinished] = other ? rank(other) : [-1, ""];
    if (tokens > otherTokens || (tokens === otherTokens && finished > otherFinished)) chosen.set(key, cell);
  }
  return [...chosen.values()].sort((a, b) => a.bits - b.bits || a.label.localeCompare(b.label));
}

/** The distinct values of a list, in ascending order. */
export function distinct(values: Iterable<number | null>): number[] {
  const set = new Set<number>();
  for (const value of values) if (value !== null && Number.isFinite(value)) set.add(value);
  return [...set].sort((a, b) => a - b);
}
