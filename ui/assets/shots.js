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
const placeOf = (hit) => pageOf(hit) ?? angleOf(hit) ?? (hit.view?.startsWith("t=") ? Number.parseFloat(hit.view.slice(2)) : null);

export class Shots {
  /** `on` has views(hit), index(), play(place, part), drawn(there). */
  constructor(on) {
    this.on = on;
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

  /** Show those of the file that a hit is a part of; nothing where it is whole, or has a single part. */
  async show(hit) {
    const place = hit ? placeOf(hit) : null;
    const isPart = place !== null;
    if (isPart && this.file === hit.content_hash) {
      this.mark(place);
      return;
    }
    this.file = isPart ? hit.content_hash : null;
    if (!this.root.hidden) {
      this.root.hidden = true;
      this.root.replaceChildren();
      this.on.drawn(false);
    }
    if (!isPart) return;
    const [isDocument, isModel] = [pageOf(hit) !== null, angleOf(hit) !== null];
    this.root.setAttribute("aria-label", isDocument ? t("shots.pages") : isModel ? t("shots.angles") : t("shots.label"));
    let views;
    try { views = await this.on.views(hit); } catch { return; } // it is gone, or another index is served
    if (this.file !== hit.content_hash || views.length < 2) return;
    this.starts = views.map((view) => placeOf(view) ?? 0);
    this.root.replaceChildren(...views.map((view, n) => {
      const shot = { row_id: view.row_id, content_hash: hit.content_hash, view: view.view };
      const said = isDocument || isModel ? number(this.starts[n]) : clock(this.starts[n]);
      const title = isDocument ? t("shots.page", { n: this.starts[n] }) : isModel ? t("shots.angle", { n: this.starts[n] }) : t("shots.play", { time: said });
      const image = make("img", { alt: "", loading: "lazy", width: 96, height: 64, src: thumbnail(shot, this.on.index(), 128) });
      return make("button.cs-shot", { type: "button", tabIndex: -1, "aria-label": title, title,
        onclick: () => { this.mark(this.starts[n]); this.on.play(this.starts[n], shot); } }, image, make("span", {}, said));
    }));
    this.root.hidden = false;
    this.on.drawn(true);
    this.mark(place);
  }

  /** Mark the part at a place. */
  mark(place) {
    if (this.root.hidden) return;
    const now = Math.max(0, this.starts.findLastIndex((start) => start <= place + 0.05));
    if (this.now === now && this.buttons[now]?.ariaCurrent === "true") return;
    this.now = now;
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
