// Searches that are saved in the index: saved, opened, renamed and deleted in a dialog. What is deleted can be put back.

import * as api from "./api.js";
import { button, icon, make, shown } from "./dom.js";

const OF_A_SEARCH = ["query", "sort", "unique", "diverse", "all"];

export class Saved {
  /** `on` has index() and identity() of the index that is shown, present(), the search that is shown or null, what is
   * not saved of it in words, open(search), and say(text). */
  constructor(root, on) {
    this.on = on;
    this.searches = [];
    this.of = null; // the index, by its id, that they are of
    this.dialog = make("dialog.cs-help.cs-saved", { "aria-label": "Saved searches" });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    root.append(this.dialog);
  }

  get isOpen() { return this.dialog.open; }

  /** Ask for those of the index that is shown. */
  async load() {
    const asked = this.asked = {};
    try {
      const answer = await api.searches(this.on.index());
      if (asked !== this.asked) return;
      this.searches = answer.searches;
      this.of = answer.index_id;
    } catch { if (asked === this.asked) this.searches = []; }
    if (this.isOpen) this.draw();
  }

  async show() {
    this.problem = this.undo = null;
    this.renaming = null;
    this.draw();
    this.dialog.showModal();
    await this.load();
    this.dialog.querySelector("input")?.focus();
  }

  draw() {
    const held = this.dialog.contains(document.activeElement) ? document.activeElement.dataset.what : null;
    const typed = this.dialog.querySelector(".cs-save-as input")?.value ?? "";
    this.dialog.replaceChildren(
      make("header", {}, make("h2", {}, "Saved searches"), button("cs-plain", "close", "Close (Esc)", () => this.dialog.close())),
      ...this.saving(typed),
      make("p.cs-saved-said", { role: "status" }, this.problem ?? "", this.undo ? button("cs-link", null, "Undo", () => this.act(this.undo), "Undo") : ""),
      this.searches.length ? make("ul", { "aria-label": "Saved searches" }, ...this.searches.map((one) => this.row(one)))
        : make("p.cs-muted", {}, "None yet."),
    );
    if (held) [...this.dialog.querySelectorAll("[data-what]")].find((one) => one.dataset.what === held)?.focus();
  }

  saving(typed) {
    const { search, unsaved } = this.on.present();
    if (!search) return [make("p.cs-muted", {}, "Search for something, then save it here.")];
    const name = make("input", { type: "text", maxLength: 100, value: typed, placeholder: shown(search.query).slice(0, 60), autocomplete: "off", "aria-label": "Name of the search", dataset: { what: "name" } });
    const submit = make("button.cs-button", { type: "submit", dataset: { what: "save" } }, this.taken && this.taken === typed ? "Replace" : "Save");
    const form = make("form.cs-save-as", {}, name, submit);
    name.oninput = () => { this.taken = null; submit.textContent = "Save"; };
    form.onsubmit = (event) => {
      event.preventDefault();
      const called = (name.value.trim() || search.query.trim()).replaceAll('"', "").slice(0, 100).trim();
      this.act(async () => {
        try {
          const kept = await api.saveSearch({ ...this.where(), ...search, name: called, replace: this.taken === called });
          this.problem = `Saved as ${shown(kept.name)}.`;
          name.value = "";
          this.taken = null;
        } catch (error) {
          if (error.kind !== "SearchExists") throw error;
          this.taken = called;
          name.value = called;
          throw new Error("There is a saved search with this name. Choose another name, or replace it.");
        }
      });
    };
    return [form, unsaved ? make("p.cs-muted", {}, unsaved) : ""];
  }

  row(search) {
    const { name } = search;
    if (this.renaming === name) return this.renamingRow(search);
    return make("li", {},
      make("button.cs-saved-open", { type: "button", dataset: { what: `open ${name}` }, onclick: () => { this.dialog.close(); this.on.open(search); } },
        icon("star"), make("span", {}, make("strong", {}, shown(name)), search.query === name ? null : make("span.cs-muted", {}, shown(search.query)))),
      this.named(button("cs-plain", "pen", `Rename ${shown(name)}`, () => { this.renaming = name; this.draw(); this.dialog.querySelector(".cs-rename input").select(); }), `rename ${name}`),
      this.named(button("cs-plain", "bin", `Delete ${shown(name)}`, () => this.act(async () => {
        const gone = await api.removeSearch({ ...this.where(), name });
        this.problem = `${shown(name)} was deleted. `;
        return async () => {
          await api.saveSearch({ ...this.where(), ...gone });
          this.problem = `${shown(name)} is back.`;
        };
      })), `delete ${name}`));
  }

  named(element, what) {
    element.dataset.what = what;
    return element;
  }

  renamingRow({ name }) {
    const input = make("input", { type: "text", maxLength: 100, value: name, autocomplete: "off", "aria-label": `New name of ${shown(name)}` });
    const form = make("form.cs-rename", {}, input, make("button.cs-button", { type: "submit" }, "Rename"),
      button("cs-plain", "close", "Do not rename", () => { this.renaming = null; this.draw(); }));
    form.onsubmit = (event) => {
      event.preventDefault();
      const called = input.value.trim();
      this.act(async () => {
        if (called && called !== name) {
          await api.renameSearch({ ...this.where(), name, new_name: called });
          this.problem = `${shown(name)} is ${shown(called)} now. `;
          this.renaming = null;
          return async () => {
            await api.renameSearch({ ...this.where(), name: called, new_name: name });
            this.problem = `${shown(name)} has its name back.`;
          };
        }
        this.renaming = null;
      });
    };
    input.onkeydown = (event) => { if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); this.renaming = null; this.draw(); } };
    return make("li", {}, form);
  }

  /** The index that the list is of: another one that is served by now answers that it is another. */
  where() {
    const index = this.on.index();
    return { ...(index ? { index } : {}), ...(this.of ? { index_id: this.of } : {}) };
  }

  /** Do something that changes the list, and say what was wrong. What `work` returns undoes it. */
  async act(work) {
    this.undo = null;
    try {
      this.undo = (await work()) ?? null;
    } catch (error) {
      this.problem = error.message;
      if (this.isOpen) this.draw();
      return;
    }
    await this.load();
  }
}

/** What is saved of what is asked. */
export const searchOf = (question) => Object.fromEntries(OF_A_SEARCH.map((name) => [name, question[name]]));
