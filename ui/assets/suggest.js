// The list below the search box: what the word being typed could become, recent and saved searches.
// An ARIA combobox: the focus stays in the box, the arrows choose. Typing never waits: the server is asked after a pause,
// and an answer to what is no longer typed is dropped.

import { icon, make, number, shown } from "./dom.js";
import { quoted, words } from "./query.js";

const PAUSE_MS = 100;
const RECENT_KEPT = 30;
const RECENT_SHOWN = 5;
const STORE = "cs-recent";
const NAMES_ROWS = /\blike:\d/i; // which of another index would be another picture

/** Searches that were made in this browser, the last one first; they are kept nowhere else. */
export function recent() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE) ?? "[]");
    return Array.isArray(kept) ? kept.filter((one) => typeof one === "string") : [];
  } catch { return []; }
}

export function remember(query) {
  const text = query.trim();
  if (!text || text.length > 500 || NAMES_ROWS.test(text)) return;
  keep([text, ...recent().filter((one) => one !== text)].slice(0, RECENT_KEPT));
}

function keep(list) {
  try { localStorage.setItem(STORE, JSON.stringify(list)); } catch { /* not kept, then */ }
}

const holds = (text, wanted) => text.toLowerCase().includes(wanted.toLowerCase());

export class Suggestions {
  /** `ask(word, signal)` returns suggestions of the server; `saved()` the saved searches. `on` has run(query), which
   * searches, and open(search), which opens a saved one. */
  constructor(input, ask, saved, on) {
    Object.assign(this, { input, ask, saved, on });
    this.list = make("ul.cs-suggest", { id: "cs-suggest", role: "listbox", "aria-label": "Suggestions", hidden: true });
    this.said = make("span.cs-unseen", { role: "status", "aria-live": "polite" });
    this.options = [];
    this.active = -1;
    for (const [name, value] of [["role", "combobox"], ["aria-autocomplete", "list"], ["aria-controls", "cs-suggest"], ["aria-expanded", "false"]]) {
      input.setAttribute(name, value);
    }
    input.addEventListener("input", (event) => { if (!event.isComposing) this.later(); });
    input.addEventListener("compositionend", () => this.later());
    input.addEventListener("click", () => { if (!this.isOpen && !input.value) this.show([]); });
    input.addEventListener("blur", () => this.close());
    this.list.addEventListener("pointerdown", (event) => event.preventDefault()); // the box keeps the focus
    this.list.addEventListener("click", (event) => {
      const option = event.target.closest("[role=option]");
      if (option) this.take(Number(option.dataset.n));
    });
  }

  get isOpen() { return !this.list.hidden; }

  /** The word that the cursor is behind: {text, start, end}; text without what stands before a field. */
  word() {
    const at = this.input.selectionStart ?? this.input.value.length;
    const found = words(this.input.value).find(({ start, end }) => start < at && at <= end);
    if (!found) return { text: "", start: at, end: at };
    let { start } = found;
    while (start < at && /[-+(]/.test(this.input.value[start])) start++;
    return { text: this.input.value.slice(start, at), start, end: found.end };
  }

  later() {
    this.stop();
    this.timer = setTimeout(() => this.look(), PAUSE_MS);
    if (!this.input.value.trim()) this.close();
  }

  stop() {
    clearTimeout(this.timer);
    this.controller?.abort();
    this.controller = null;
  }

  async look() {
    const [query, { text }] = [this.input.value, this.word()];
    if (!query.trim()) return;
    let found = [];
    if (text) {
      const controller = this.controller = new AbortController();
      try {
        found = await this.ask(text, controller.signal);
      } catch { /* a list that is not there is no reason to disturb anybody */ }
      if (controller.signal.aborted || this.input.value !== query || document.activeElement !== this.input) return;
    }
    this.show(found);
  }

  /** Show the server's suggestions, with the searches that fit what is typed; all searches if nothing is. */
  show(found) {
    const query = this.input.value.trim();
    const kept = this.saved().filter((one) => !query || holds(one.name, query) || holds(one.query, query));
    const before = recent().filter((one) => one !== query && (!query || holds(one, query)));
    this.options = [
      ...found.map((one) => ({ kind: one.value ? "value" : "field", ...one })),
      ...kept.slice(0, RECENT_SHOWN).map((search) => ({ kind: "saved", search, label: search.name })),
      ...before.slice(0, query ? 3 : RECENT_SHOWN).map((label) => ({ kind: "recent", label })),
    ];
    if (!query && before.length) this.options.push({ kind: "forget", label: "Forget recent searches" });
    if (!this.options.length) { this.close(); return; }
    this.active = -1;
    this.list.replaceChildren(...this.options.map((option, n) => this.drawn(option, n)));
    this.list.hidden = false;
    this.input.setAttribute("aria-expanded", "true");
    this.input.removeAttribute("aria-activedescendant");
    this.said.textContent = `${this.options.length} suggestions`;
  }

  drawn({ kind, field, label, count, search }, n) {
    const about = { value: `${field}:`, recent: "recent", saved: "saved", field: "filter", forget: "" }[kind];
    const sign = { value: "filter", field: "filter", recent: "clock", saved: "star", forget: "close" }[kind];
    return make("li.cs-suggested", { id: `cs-suggest-${n}`, role: "option", "aria-selected": "false", dataset: { n, kind } },
      icon(sign), make("span.cs-suggest-text", {}, shown(label), search && search.query !== label ? make("span.cs-muted", {}, ` ${shown(search.query)}`) : null),
      make("span.cs-count", {}, count === null || count === undefined ? about : `${about} ${number(count)}`));
  }

  /** Whether a key was for the list. */
  key(event) {
    if (event.isComposing) return false;
    if (!this.isOpen) {
      if (event.key !== "ArrowDown" || !event.altKey) return false;
      if (this.input.value.trim()) this.look(); else this.show([]);
      return true;
    }
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const count = this.options.length + 1; // one more is the box itself
      this.activate((this.active + 1 + (event.key === "ArrowDown" ? 1 : count - 1)) % count - 1);
    } else if (event.key === "Escape") this.close();
    else if (event.key === "Enter" && this.active >= 0) this.take(this.active);
    else {
      if (event.key === "Tab") this.close();
      return false;
    }
    return true;
  }

  activate(n) {
    this.list.children[this.active]?.setAttribute("aria-selected", "false");
    this.active = n;
    const option = this.list.children[n];
    option?.setAttribute("aria-selected", "true");
    option?.scrollIntoView({ block: "nearest" });
    if (option) this.input.setAttribute("aria-activedescendant", option.id); else this.input.removeAttribute("aria-activedescendant");
  }

  take(n) {
    const option = this.options[n];
    if (option.kind === "forget") {
      keep([]);
      this.show([]);
    } else if (option.kind === "recent") this.done(() => this.on.run(option.label));
    else if (option.kind === "saved") this.done(() => this.on.open(option.search));
    else {
      const { start, end } = this.word();
      const written = `${option.field}:${option.kind === "value" ? quoted(option.value) : ""}`;
      const { value } = this.input;
      const text = value.slice(0, start) + written + value.slice(end);
      this.input.value = text;
      this.input.setSelectionRange(start + written.length, start + written.length);
      if (option.kind === "value") this.done(() => this.on.run(text));
      else this.look();
    }
  }

  done(act) {
    this.close();
    act();
  }

  close() {
    this.stop();
    this.list.hidden = true;
    this.options = [];
    this.active = -1;
    this.input.setAttribute("aria-expanded", "false");
    this.input.removeAttribute("aria-activedescendant");
    this.said.textContent = "";
  }
}
