// One picture, large, with what is known of it.

import { thumbnail } from "./api.js";
import { button, bytes, make, number, shown } from "./dom.js";
import { bandTitle } from "./gallery.js";

export class Detail {
  /** `on` has close, step(±1), rate, similar, open(hit), copy(text), rating(hit). */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.hit = null;
    let from = null;
    root.addEventListener("touchstart", (event) => { from = event.touches.length === 1 ? event.touches[0] : null; }, { passive: true });
    root.addEventListener("touchend", (event) => {
      if (!from) return;
      const dx = event.changedTouches[0].clientX - from.clientX, dy = event.changedTouches[0].clientY - from.clientY;
      if (Math.abs(dx) > 60 && Math.abs(dx) > 2 * Math.abs(dy)) on.step(dx < 0 ? 1 : -1);
    }, { passive: true });
  }

  get isOpen() { return this.hit !== null; }

  show(hit, index) {
    this.hit = hit;
    this.index = index;
    const name = shown(hit.name);
    const rating = this.on.rating(hit);
    const small = make("img.cs-small", { alt: "", src: thumbnail(hit.row_id, index, 256) });
    const large = make("img.cs-large", { alt: name, src: thumbnail(hit.row_id, index, 1024) });
    const failed = make("p.cs-note", { hidden: true }, "This picture is no longer readable: it was deleted, moved or changed.");
    large.onload = () => large.classList.add("cs-loaded");
    large.onerror = () => { failed.hidden = false; large.hidden = true; };
    const stage = make("div.cs-stage", {}, small, large, failed,
      button("cs-step.cs-back", "left", "Previous (←)", () => this.on.step(-1)),
      button("cs-step.cs-on", "right", "Next (→)", () => this.on.step(1)),
    );
    const thumbs = [
      button(`cs-action${rating > 0 ? ".cs-on" : ""}`, "up", "More like this: thumbs up (+)", () => this.on.rate(hit, 1)),
      button(`cs-action${rating < 0 ? ".cs-on" : ""}`, "down", "Less like this: thumbs down (-)", () => this.on.rate(hit, -1)),
    ];
    const facts = make("dl.cs-facts");
    for (const [what, value] of this.facts(hit)) facts.append(make("dt", {}, what), make("dd", {}, value));
    this.root.replaceChildren(
      make("header", {},
        make("h2", {}, name.split("/").pop()),
        button("cs-plain", "close", "Close (Esc)", () => this.on.close()),
      ),
      stage,
      make("div.cs-actions", {},
        button("cs-action.cs-wide", "similar", "Find similar pictures (s)", () => this.on.similar(hit), "More like this"),
        button("cs-action.cs-wide", "close", "Search again without similar pictures", () => this.on.without(hit), "Less like this"),
        ...thumbs,
        button(`cs-action.cs-select${this.on.isSelected(hit) ? ".cs-on" : ""}`, "check", "Select (x)", () => this.on.select(hit)),
        button("cs-action", "copy", "Copy the path", () => this.on.copy(shown(hit.path))),
      ),
      facts,
      ...this.others(hit),
    );
    this.root.hidden = false;
    this.root.scrollTop = 0;
  }

  facts(hit) {
    const rows = [];
    if (hit.band) rows.push(["Match", bandTitle(hit)]);
    else if (typeof hit.score === "number") rows.push(["Score", hit.score.toFixed(3)]);
    if (hit.width) rows.push(["Size", `${number(hit.width)} × ${number(hit.height)}, ${bytes(hit.size_bytes)}`]);
    else rows.push(["Size", bytes(hit.size_bytes)]);
    if (hit.taken_at) rows.push(["Taken", hit.taken_at.replace("T", " ")]);
    if (hit.camera) rows.push(["Camera", hit.camera]);
    if (typeof hit.latitude === "number" && typeof hit.longitude === "number") {
      const place = `${hit.latitude.toFixed(5)},${hit.longitude.toFixed(5)}`;
      rows.push(["Place", make("span", {}, `${place} `, button("cs-link", null, "Find pictures taken near here",
        () => this.on.near(place), "near here"))]);
    }
    rows.push(["Changed", new Date(hit.mtime_ns / 1e6).toLocaleString()]);
    if (hit.format) rows.push(["Format", hit.format]);
    const folder = shown(hit.name).split("/").slice(0, -1).join("/");
    if (folder) rows.push(["Folder", button("cs-link", null, "Search only this folder", () => this.on.folder(folder), folder)]);
    rows.push(["Path", make("code", {}, shown(hit.path))]);
    rows.push(["Row", `${hit.row_id} (like:${hit.row_id})`]);
    return rows;
  }

  others(hit) {
    if (!hit.others?.length) return [];
    const strip = make("div.cs-strip");
    for (const other of hit.others) {
      const image = make("img", { alt: "", src: thumbnail(other.row_id, this.index, 128) });
      strip.append(make("button", { type: "button", title: shown(other.name), onclick: () => this.on.open(other) }, image));
    }
    return [make("h3", {}, "Near-duplicates"), strip];
  }

  close() {
    this.hit = null;
    this.root.hidden = true;
    this.root.replaceChildren();
  }
}
