// What is known of one picture, and what can be done with it: the panel beside the large view.

import { exposure, thumbnail } from "./api.js";
import { button, bytes, make, number, shown } from "./dom.js";
import { bandTitle, baseName } from "./gallery.js";

const MOST_KEPT = 500;

const plain = (value) => String(Number(value.toPrecision(2)));
const shutter = (seconds) => (seconds < 0.4 ? `1/${number(Math.round(1 / seconds))} s` : `${plain(seconds)} s`);
function focal({ focal_length_mm: real, focal_length_35mm: as35 }) {
  const length = `${Number(real.toFixed(real < 10 ? 1 : 0))} mm`;
  return as35 && Math.abs(as35 / real - 1) > 0.1 ? `${length} (as ${Math.round(as35)} mm)` : length;
}

export class Detail {
  /** `on` has hide, rate, similar, without, select, near, folder, only(field, value), open(hit), copy(text), rating(hit), isSelected(hit). */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.hit = null;
    this.exposures = new Map();
  }

  show(hit, index) {
    const held = this.root.contains(document.activeElement) ? document.activeElement.dataset.what : null;
    this.hit = hit;
    this.index = index;
    const rating = this.on.rating(hit);
    const thumbs = [
      button(`cs-action${rating > 0 ? ".cs-on" : ""}`, "up", "More like this: thumbs up (+)", () => this.on.rate(hit, 1)),
      button(`cs-action${rating < 0 ? ".cs-on" : ""}`, "down", "Less like this: thumbs down (-)", () => this.on.rate(hit, -1)),
    ];
    const facts = make("dl.cs-facts");
    for (const [what, value] of this.facts(hit)) facts.append(make("dt", {}, what), make("dd", {}, value));
    this.addExposure(hit, index, facts);
    this.root.replaceChildren(
      make("header", {},
        make("h2", { title: shown(hit.name) }, baseName(hit)),
        button("cs-plain", "close", "Hide the information (i)", () => this.on.hide()),
      ),
      make("div.cs-actions", {},
        button("cs-action.cs-wide", "similar", "Find similar pictures (s)", () => this.on.similar(hit), "More like this"),
        button("cs-action.cs-wide", "close", "Search again without similar pictures", () => this.on.without(hit), "Less like this"),
        ...thumbs,
        button(`cs-action.cs-select${this.on.isSelected(hit) ? ".cs-on" : ""}`, "check", "Select (x)", () => this.on.select(hit)),
        button("cs-action.cs-copy", "copy", "Copy the path (c)", () => this.on.copy(shown(hit.path))),
      ),
      facts,
      ...this.others(hit),
    );
    for (const one of this.root.querySelectorAll("button")) one.dataset.what = one.title;
    if (held) [...this.root.querySelectorAll("button")].find((one) => one.dataset.what === held)?.focus();
    this.root.scrollTop = 0;
  }

  facts(hit) {
    const rows = [];
    if (hit.title) rows.push(["Title", make("span.cs-words", {}, hit.title)]);
    if (hit.caption) rows.push(["Caption", make("span.cs-words", {}, hit.caption)]);
    if (hit.people?.length) rows.push(["People", this.values("person", hit.people, (name) => name)]);
    if (hit.keywords?.length) rows.push(["Keywords", this.values("keyword", hit.keywords, (word) => word.replaceAll("|", " › "))]);
    if (hit.rating) rows.push(["Rating", hit.rating < 0 ? "rejected" : `${"★".repeat(hit.rating)}${"☆".repeat(5 - hit.rating)}`]);
    if (hit.band) rows.push(["Match", bandTitle(hit)]);
    else if (typeof hit.score === "number") rows.push(["Score", hit.score.toFixed(3)]);
    const size = hit.width ? `${number(hit.width)} × ${number(hit.height)}, ${bytes(hit.size_bytes)}` : bytes(hit.size_bytes);
    rows.push(["Size", make("span.cs-size", {}, size)]);
    if (hit.taken_at) rows.push(["Taken", hit.taken_at.replace("T", " ")]);
    if (hit.camera) rows.push(["Camera", make("span.cs-camera", {}, hit.camera)]);
    if (typeof hit.latitude === "number" && typeof hit.longitude === "number") {
      const place = `${hit.latitude.toFixed(5)},${hit.longitude.toFixed(5)}`;
      rows.push(["Place", make("span.cs-place", {}, `${place} `, button("cs-link", null, "Find pictures taken near here",
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

  /** Words that a click asks for. */
  values(field, words, text) {
    const all = words.map((word) => button("cs-link", null, `Only pictures with this ${field}`, () => this.on.only(field, word), text(word)));
    return make("span.cs-words", {}, ...all.flatMap((one, n) => (n ? [", ", one] : [one])));
  }

  /** What only the file says: asked for when it is looked at, put in when it comes. */
  async addExposure(hit, index, facts) {
    const key = `${index} ${hit.row_id} ${hit.content_hash}`;
    let told = this.exposures.get(key);
    if (!told) {
      try { told = await exposure(hit, index); } catch { return; } // the file is away, or changed
      if (this.exposures.size >= MOST_KEPT) this.exposures.clear();
      this.exposures.set(key, told);
    }
    if (!facts.isConnected && facts.parentNode !== null) return;
    const settings = [
      told.exposure_s && shutter(told.exposure_s), told.aperture && `f/${plain(told.aperture)}`,
      told.iso && `ISO ${number(told.iso)}`, told.focal_length_mm && focal(told),
    ].filter(Boolean);
    const rows = [];
    if (told.lens) rows.push(["Lens", told.lens]);
    if (settings.length) rows.push(["Exposure", settings.join(" · ")]);
    const camera = (facts.querySelector(".cs-camera") ?? facts.querySelector(".cs-size"))?.parentNode;
    for (const [what, value] of rows.reverse()) camera?.after(make("dt", {}, what), make("dd", {}, value));
    if (told.place) facts.querySelector(".cs-place")?.prepend(`${told.place} · `);
  }

  others(hit) {
    if (!hit.others?.length) return [];
    const strip = make("div.cs-strip");
    for (const other of hit.others) {
      const image = make("img", { alt: "", src: thumbnail(other, this.index, 128) });
      strip.append(make("button", { type: "button", title: baseName(other), "aria-label": baseName(other), onclick: () => this.on.open(other) }, image));
    }
    return [make("h3", {}, "Near-duplicates"), strip];
  }

  close() {
    this.hit = null;
    this.root.replaceChildren();
  }
}
