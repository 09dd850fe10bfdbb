// What the hits are made of: years, folders, cameras, types, tags, keywords and people with their numbers. A click adds the filter.

import { button, make } from "./dom.js";
import { number, t } from "./messages.js";
import { filtersOf, withFilter } from "./query.js";

const FIELDS = { year: ["after", "before"], folder: ["folder"], camera: ["camera"], type: ["ext"], tag: ["tag"], keyword: ["keyword"], person: ["person"] };

export class Facets {
  /** `ask(signal)` returns {facets, total}; `on` has query() and go(query). */
  constructor(root, ask, on) {
    Object.assign(this, { root, ask, on });
    this.key = null;
  }

  /** Count the hits of the question that `key` names, unless they are counted. */
  async show(key) {
    if (key === this.key) { this.mark(); return; }
    this.key = key;
    this.controller?.abort();
    const controller = this.controller = new AbortController();
    try {
      const { facets, total } = await this.ask(controller.signal);
      if (controller.signal.aborted) return;
      Object.assign(this, { facets, total });
      this.draw();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.key = null; // what is wrong with a question, the gallery says
      this.root.replaceChildren();
    }
  }

  draw() {
    const held = this.root.contains(document.activeElement) ? document.activeElement.dataset.value : null;
    const given = filtersOf(this.on.query());
    const groups = Object.keys(FIELDS).flatMap((facet) => {
      const values = this.facets[facet].map((value) => this.chip(facet, value, given));
      const stated = FIELDS[facet].filter((field) => given[field]).map((field) => [field, given[field]]);
      const isShown = stated.every(([field, value]) => this.facets[facet].some((one) => one.filters.some((filter) => filter[0] === field && filter[1] === value)));
      if (stated.length && !isShown) {
        const label = facet === "year" ? stated.map((one) => one.join(" ")).join(", ") : stated[0][1].replace(/^\//, "");
        values.unshift(this.chip(facet, { label, count: null, filters: stated }, given));
      }
      const divides = this.facets[facet].length > 1 || this.facets[facet].some(({ count }) => count < this.total);
      if (!divides && !stated.length) return [];
      const id = `cs-facet-${facet}`;
      return [make("h2", { id }, t(`facet.${facet}`)), make("div.cs-values", { role: "group", "aria-labelledby": id }, ...values)];
    });
    this.root.replaceChildren(...groups);
    if (held) [...this.root.querySelectorAll("button")].find((one) => one.dataset.value === held)?.focus();
  }

  chip(facet, { label, count, filters }, given) {
    const isOn = filters.every(([field, value]) => given[field] === value);
    const chip = button(`cs-value${isOn ? ".cs-on" : ""}`, isOn ? "close" : null, t(isOn ? "facet.remove" : "facet.only", { label }), () => {
      const query = filters.reduce((text, [field, value]) => withFilter(text, field, isOn ? "" : value), this.on.query());
      this.on.go(query);
    }, label || t("facet.none"));
    if (count !== null) chip.append(make("span.cs-count", {}, number(count)));
    chip.setAttribute("aria-pressed", String(isOn));
    chip.dataset.value = `${facet} ${label}`;
    return chip;
  }

  mark() { if (this.facets) this.draw(); }
}
