// Searches that are saved in the index: saved, opened, renamed and deleted in a dialog. What is deleted can be put back.

import * as api from "./api.js";
import { button, icon, make, shown } from "./dom.js";
import { t } from "./messages.js";

const OF_A_SEARCH = ["query", "sort", "unique", "diverse", "all"];

export class Saved {
  /** `on` has index() and identity() of the index that is shown, present(), the search that is shown or null, what is
   * not saved of it in words, open(search), changed() (the list was), and say(text). */
  constructor(root, on) {
    this.on = on;
    this.searches = [];
    this.of = null; // the index, by its id, that they are of
    this.dialog = make("dialog.cs-help.cs-saved", { "aria-label": t("saved.title") });
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
      make("header", {}, make("h2", {}, t("saved.title")), button("cs-plain", "close", t("close"), () => this.dialog.close())),
      ...this.saving(typed),
      make("p.cs-saved-said", { role: "status" }, this.problem ?? "", this.undo ? button("cs-link", null, t("saved.undo"), () => this.act(this.undo), t("saved.undo")) : ""),
      this.searches.length ? make("ul", { "aria-label": t("saved.title") }, ...this.searches.map((one) => this.row(one)))
        : make("p.cs-muted", {}, t("saved.none")),
    );
    if (held) [...this.dialog.querySelectorAll("[data-what]")].find((one) => one.dataset.what === held)?.focus();
  }

  saving(typed) {
    const { search, unsaved } = this.on.present();
    if (!search) return [make("p.cs-muted", {}, t("saved.nothing"))];
    const name = make("input", { type: "text", maxLength: 100, value: typed, placeholder: shown(search.query).slice(0, 60), autocomplete: "off", "aria-label": t("saved.name"), dataset: { what: "name" } });
    const submit = make("button.cs-button", { type: "submit", dataset: { what: "save" } }, this.taken && this.taken === typed ? t("replace") : t("saved.save"));
    const form = make("form.cs-save-as", {}, name, submit);
    name.oninput = () => { this.taken = null; submit.textContent = t("saved.save"); };
    form.onsubmit = (event) => {
      event.preventDefault();
      const called = (name.value.trim() || search.query.trim()).replaceAll('"', "").slice(0, 100).trim();
      this.act(async () => {
        try {
          const kept = await api.saveSearch({ ...this.where(), ...search, name: called, replace: this.taken === called });
          this.problem = t("saved.saved", { name: shown(kept.name) });
          name.value = "";
          this.taken = null;
        } catch (error) {
          if (error.kind !== "SearchExists") throw error;
          this.taken = called;
          name.value = called;
          throw new Error(t("saved.taken"));
        }
      });
    };
    return [form, unsaved ? make("p.cs-muted", {}, unsaved) : ""];
  }

  row(search) {
    const { name } = search;
    if (this.renaming?.name === name) return this.renamingRow(search);
    return make("li", {},
      make("button.cs-saved-open", { type: "button", title: shown(search.query), dataset: { what: `open ${name}` }, onclick: () => { this.dialog.close(); this.on.open(search); } },
        icon("star"), make("span", {}, make("strong", {}, shown(name)), search.query === name ? null : make("span.cs-muted", {}, shown(search.query)))),
      this.named(button("cs-plain", "pen", t("saved.rename_it", { name: shown(name) }), () => { this.renaming = { name, called: name }; this.draw(); this.dialog.querySelector(".cs-rename input").select(); }), `rename ${name}`),
      this.named(button("cs-plain", "bin", t("saved.delete_it", { name: shown(name) }), () => this.act(async () => {
        const gone = await api.removeSearch({ ...this.where(), name });
        this.problem = `${t("saved.deleted", { name: shown(name) })} `;
        return async () => {
          await api.saveSearch({ ...this.where(), ...gone });
          this.problem = t("saved.back", { name: shown(name) });
        };
      })), `delete ${name}`));
  }

  named(element, what) {
    element.dataset.what = what;
    return element;
  }

  renamingRow({ name }) {
    const input = make("input", { type: "text", maxLength: 100, value: this.renaming.called, autocomplete: "off", "aria-label": t("saved.new_name", { name: shown(name) }), dataset: { what: "renamed" } });
    input.oninput = () => { this.renaming.called = input.value; }; // an answer that comes meanwhile draws the list anew
    const form = make("form.cs-rename", {}, input, make("button.cs-button", { type: "submit" }, t("saved.rename")),
      button("cs-plain", "close", t("saved.keep_name"), () => { this.renaming = null; this.draw(); }));
    form.onsubmit = (event) => {
      event.preventDefault();
      const called = input.value.trim();
      this.act(async () => {
        if (called && called !== name) {
          await api.renameSearch({ ...this.where(), name, new_name: called });
          this.problem = `${t("saved.renamed", { name: shown(name), called: shown(called) })} `;
          this.renaming = null;
          return async () => {
            await api.renameSearch({ ...this.where(), name: called, new_name: name });
            this.problem = t("saved.name_back", { name: shown(name) });
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
    this.on.changed();
    await this.load();
  }
}

/** What is saved of what is asked. */
export const searchOf = (question) => Object.fromEntries(OF_A_SEARCH.map((name) => [name, question[name]]));
