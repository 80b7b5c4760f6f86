/** Numbers as people read them. */

const MINUS = "\u2212";

function withMinus(text: string): string {
  return text.replace(/^-/, MINUS).replace("e-", `e${MINUS}`).replace("e+", "e");
}

/** Three significant digits: "0.00483", "1.2e−9", "0"; "–" for what is not there. */
export function digits(value: number, count = 3): string {
  if (!Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e6) {
    return withMinus(value.toExponential(count - 1).replace(/\.?0+e/, "e"));
  }
  return withMinus(size >= 10 ** (count - 1) ? value.toFixed(0) : value.toPrecision(count));
}

export function fixed(value: number, places: number): string {
  return Number.isFinite(value) ? withMinus(value.toFixed(places)) : "–";
}

export function percent(value: number, places = 2): string {
  return Number.isFinite(value) ? `${fixed(100 * value, places)} %` : "–";
}

/** "16,384" */
export function count(value: number | null): string {
  return value === null || !Number.isFinite(value) ? "–" : withMinus(value.toLocaleString("en-US", { maximumFractionDigits: 0 }));
}

/** "12.3 MiB" */
export function bytes(value: number | null): string {
  if (value === null || !Number.isFinite(value)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let scaled = value;
  while (Math.abs(scaled) >= 1024 && unit + 1 < units.length) {
    scaled /= 1024;
    ++unit;
  }
  return `${unit === 0 ? count(scaled) : digits(scaled)} ${units[unit]}`;
}

/** "1 cache", "3 caches" */
export function plural(n: number, noun: string): string {
  return `${count(n)} ${noun}${n === 1 ? "" : "s"}`;
}
