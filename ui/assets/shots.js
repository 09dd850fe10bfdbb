// The shots of a video, below it in the large view: each plays from its moment.

import { thumbnail } from "./api.js";
import { make } from "./dom.js";
import { clock } from "./gallery.js";
import { t } from "./messages.js";

export class Shots {
  /** `on` has views(hit), index(), play(seconds, shot), drawn(there). */
  constructor(on) {
    this.on = on;
    this.root = make("div.cs-shots", { hidden: true, role: "group", "aria-label": t("shots.label") });
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

  /** Show those of the video that a hit is of; nothing where it is no video, or one of a single shot. */
  async show(hit) {
    const isVideo = hit?.view?.startsWith("t=");
    if (isVideo && this.file === hit.content_hash) {
      this.mark(Number.parseFloat(hit.view.slice(2)));
      return;
    }
    this.file = isVideo ? hit.content_hash : null;
    if (!this.root.hidden) {
      this.root.hidden = true;
      this.root.replaceChildren();
      this.on.drawn(false);
    }
    if (!isVideo) return;
    let views;
    try { views = await this.on.views(hit); } catch { return; } // it is gone, or another index is served
    if (this.file !== hit.content_hash || views.length < 2) return;
    this.starts = views.map((view) => view.start_s ?? 0);
    this.root.replaceChildren(...views.map((view, n) => {
      const shot = { row_id: view.row_id, content_hash: hit.content_hash, view: view.view };
      const time = clock(this.starts[n]);
      const image = make("img", { alt: "", loading: "lazy", width: 96, height: 64, src: thumbnail(shot, this.on.index(), 128) });
      return make("button.cs-shot", { type: "button", tabIndex: -1, "aria-label": t("shots.play", { time }), title: t("shots.play", { time }),
        onclick: () => { this.mark(this.starts[n]); this.on.play(this.starts[n], shot); } }, image, make("span", {}, time));
    }));
    this.root.hidden = false;
    this.on.drawn(true);
    this.mark(Number.parseFloat(hit.view.slice(2)));
  }

  /** Mark the shot of a moment, in seconds. */
  mark(seconds) {
    if (this.root.hidden) return;
    const now = Math.max(0, this.starts.findLastIndex((start) => start <= seconds + 0.05));
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
