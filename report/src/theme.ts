/** Light and dark: as the system says, or as chosen. */
import { picker } from "./dom.ts";

const KEY = "kvant-report-appearance";
const root = document.documentElement;

/** Storage that a page opened from a file may not have. */
function stored(): string {
  try {
    return localStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function store(value: string): void {
  try {
    localStorage.setItem(KEY, value);
  } catch {
    // The choice then lasts as long as the page.
  }
}

/** The picker; `changed` is called when colours have changed, for printing too. */
export function appearance(changed: () => void): HTMLElement {
  const apply = (value: string) => {
    if (value === "light" || value === "dark") root.dataset.theme = value;
    else delete root.dataset.theme;
  };
  const initial = stored();
  apply(initial);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  let before = "";
  addEventListener("beforeprint", () => {
    before = root.dataset.theme ?? "";
    apply("light");
    changed();
  });
  addEventListener("afterprint", () => {
    apply(before);
    changed();
  });
  return picker("Appearance", [{ value: "", text: "as the system" }, { value: "light", text: "light" },
    { value: "dark", text: "dark" }], initial, (value) => {
    apply(value);
    store(value);
    changed();
  });
}
