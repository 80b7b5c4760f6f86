/** Elements, copying, and the pieces that all sections share. */

type Child = Node | string | null | undefined;
type Attributes = Record<string, string | number | boolean | ((event: Event) => void) | null | undefined>;

/** Makes an element: `h("p", {class: "note"}, "text")`. A function is a listener; true and false set or leave out. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child): child is Node | string => child !== null && child !== undefined));
  return element;
}

let counter = 0;
/** An id that nothing else on the page has. */
export function freshId(prefix: string): string {
  return `${prefix}-${++counter}`;
}

const status = h("p", { class: "visually-hidden", role: "status" });

/** Tells screen readers something. */
export function announce(text: string): void {
  if (!status.isConnected) document.body.append(status);
  status.textContent = text;
}

async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages opened from a file may not have the clipboard's own interface.
    const area = h("textarea", { class: "visually-hidden", "aria-hidden": "true", tabindex: -1 });
    area.value = text;
    const focused = document.activeElement;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (focused instanceof HTMLElement) focused.focus();
    if (!done) throw new Error("not copied");
  }
}

/** A button that copies what `text` returns; `what` says it to screen readers. */
export function copyButton(label: string, what: string, text: () => string): HTMLButtonElement {
  const button = h("button", { type: "button", class: "copy" }, label);
  if (what !== label) button.setAttribute("aria-label", `${label} ${what}`);
  button.addEventListener("click", () => {
    copy(text()).then(
      () => {
        button.textContent = "Copied";
        announce(`Copied ${what}`);
        setTimeout(() => (button.textContent = label), 1500);
      },
      () => announce("The browser did not allow copying"),
    );
  });
  return button;
}

export interface Choice {
  value: string;
  text: string;
}

/** A labelled <select>; with one choice only, the plain text of it. */
export function picker(label: string, choices: Choice[], value: string, changed: (value: string) => void): HTMLElement {
  if (choices.length === 1) {
    return h("span", { class: "picker single" }, h("span", { class: "picker-label" }, label), h("span", {}, choices[0]!.text));
  }
  const id = freshId("pick");
  const select = h(
    "select",
    { id, change: () => changed(select.value) },
    ...choices.map((choice) => h("option", { value: choice.value, selected: choice.value === value }, choice.text)),
  );
  return h("span", { class: "picker" }, h("label", { for: id, class: "picker-label" }, label), select);
}

/** Text with *emphasis* and `code` in it. */
export function prose(text: string): (Node | string)[] {
  return text.split(/(\*[^*]+\*|`[^`]+`)/).map((part) => {
    if (part.startsWith("*") && part.length > 2) return h("strong", {}, part.slice(1, -1));
    if (part.startsWith("`") && part.length > 2) return h("code", {}, part.slice(1, -1));
    return part;
  });
}

export function paragraph(text: string, className?: string): HTMLElement {
  return h("p", { class: className }, ...prose(text));
}
