// The shots of a video, the pages of a document, or the angles of a 3-D model, below it in the large view: each plays from its moment, or is shown.

import { thumbnail } from "./api.js";
import { make } from "./dom.js";
import { clock } from "./gallery.js";
import { number, t } from "./messages.js";

/** Which page of a document a hit is; null for what is none. */
export const pageOf = ({ view }) => (view?.startsWith("page=") ? Number.parseInt(view.slice(5), 10) : null);

/** Which angle of a 3-D model a hit is; null for what is none. */
export const angleOf = ({ view }) => (view?.startsWith("angle=") ? Number.parseInt(view.slice(6), 10) : null);

/** Where in its file a part is: a second of a video, a page of a document, an angle of a model; null for a whole file. */
export const placeOf = (hit) => pageOf(hit) ?? angleOf(hit) ?? (hit.view?.startsWith("t=") ? Number.parseFloat(hit.view.slice(2)) : null);

export class Shots {
  /** `on` has views(hit), index(), play(part), drawn(there). */
  constructor(on) {
    this.on = on;
    this.parts = []; // {row_id, content_hash, view, place}
    this.root = make("div.cs-shots", { hidden: true, role: "group", "aria-label": "" });
    this.root.addEventListener("keydown", (event) => this.key(event));
    this.root.addEventListener("pointerdown", (event) => event.stopPropagation());
    this.root.addEventListener("click", (event) => event.stopPropagation());
    this.root.addEventListener("wheel", (event) => {
      event.stopPropagation();
      if (event.deltaY && !event.ctrlKey) this.root.scrollLeft += event.deltaY;
    }, { passive: true });
  }

  /** How much of the window they take. */
  get height() { return this.root.hidden ? 0 : this.root.offsetHeight; }

  get buttons() { return [...this.root.children]; }

  /** Whether a hit is one of them. */
  has({ row_id: id }) { return this.parts.some(({ row_id }) => row_id === id); }

  /** The one at a place: the last that begins before it; undefined where there are none. */
  at(place) { return this.parts.findLast((part) => part.place <= place + 0.05) ?? this.parts[0]; }

  /** Show those of the file that a hit is a part of; nothing where it is whole, or has a single part. */
  async show(hit) {
    this.of = hit;
    if (hit && this.has(hit)) {
      this.mark(hit);
      return;
    }
    this.parts = [];
    if (!this.root.hidden) {
      this.root.hidden = true;
      this.root.replaceChildren();
      this.on.drawn(false);
    }
    if (!hit || placeOf(hit) === null) return;
    const [isDocument, isModel] = [pageOf(hit) !== null, angleOf(hit) !== null];
    this.root.setAttribute("aria-label", t(isDocument ? "shots.pages" : isModel ? "shots.angles" : "shots.label"));
    let views;
    try { views = await this.on.views(hit); } catch { return; } // it is gone, or another index is served
    if (this.of !== hit || views.length < 2) return;
    this.parts = views.map((part) => ({ row_id: part.row_id, view: part.view, content_hash: hit.content_hash, place: placeOf(part) ?? 0 }));
    this.root.replaceChildren(...this.parts.map((part) => {
      const said = isDocument || isModel ? number(part.place) : clock(part.place);
      const title = isDocument ? t("shots.page", { n: part.place }) : isModel ? t("shots.angle", { n: part.place }) : t("shots.play", { time: said });
      const image = make("img", { alt: "", loading: "lazy", width: 96, height: 64, src: thumbnail(part, this.on.index(), 128) });
      return make("button.cs-shot", { type: "button", tabIndex: -1, "aria-label": title, title, onclick: () => this.on.play(part) },
        image, make("span", {}, said));
    }));
    this.root.hidden = false;
    this.on.drawn(true);
    this.mark(hit);
  }

  /** Mark the part that a hit is. */
  mark({ row_id: id }) {
    const now = Math.max(0, this.parts.findIndex(({ row_id }) => row_id === id));
    this.buttons.forEach((one, n) => {
      one.setAttribute("aria-current", String(n === now));
      one.tabIndex = n === now ? 0 : -1;
    });
    const shot = this.buttons[now];
    this.root.scrollLeft = shot.offsetLeft - (this.root.clientWidth - shot.offsetWidth) / 2;
  }

  key(event) {
    const at = this.buttons.indexOf(document.activeElement);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: this.buttons.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    this.buttons[Math.min(this.buttons.length - 1, Math.max(0, to))].focus();
  }
}
