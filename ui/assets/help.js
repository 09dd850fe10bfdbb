// What the keys do and how to ask, in a dialog; and the choice of a language.

import { root } from "./api.js";
import { button, make } from "./dom.js";
import { choose, chosen, languages, t } from "./messages.js";

// What is typed and stays as it is: the query language is the same in all languages. Null: the message names it.
const QUERIES = [
  [null, "words"], ["beach -people", "without"], ["camera:*pixel* after:2023-05", "filters"],
  ["folder:trips/** width:>2000", "size"], ["near:lisbon", "near"], ["like:12 + snow", "like"],
];
const KEYS = [["/", "box"], [null, "arrows"], ["Enter", "open"], [null, "select"], ["+ −", "thumbs"], ["s", "similar"], ["c", "copy"]];
const LARGE = [["← →", "step"], [null, "zoom"], ["p", "slideshow"], ["f", "whole"], ["i", "info"], ["w", "where"], ["r", "crop"], ["t", "words"], ["o", "original"], ["m", "moment"]];

/** A list of the languages, each called as it calls itself: for those who cannot read this one. */
export function languageChoice() {
  const select = make("select", { onchange: () => choose(select.value, root) },
    make("option", { value: "" }, t("language.browser")),
    ...languages.map(([tag, name]) => make("option", { value: tag, lang: tag, selected: tag === chosen }, name)));
  return make("label.cs-language", {}, make("span", {}, t("language.label")), select);
}

export class Help {
  constructor(parent) {
    this.dialog = make("dialog.cs-help", { "aria-label": t("help.title") });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    parent.append(this.dialog);
  }

  get isOpen() { return this.dialog.open; }

  show() {
    const part = (name, rows, tag) => [make("h3", {}, t(`help.${name}`)), make("dl", {}, ...rows.flatMap(([what, key]) => [
      make("dt", {}, make(tag, {}, what ?? t(`help.${name}.${key}.what`))), make("dd", {}, t(`help.${name}.${key}`))]))];
    this.dialog.replaceChildren(
      make("header", {}, make("h2", {}, t("help.title")), button("cs-plain", "close", t("close"), () => this.dialog.close())),
      ...part("ask", QUERIES, "code"), ...part("keys", KEYS, "kbd"), ...part("large", LARGE, "kbd"), languageChoice(),
    );
    this.dialog.showModal();
  }
}
