// What is known of one picture, and what can be done with it: the panel beside the large view.

import { exposure, thumbnail } from "./api.js";
import { button, make, shown } from "./dom.js";
import { bandTitle, baseName, clock } from "./gallery.js";
import { bytes, country, locale, localMoment, moment, number, t } from "./messages.js";
import { angleOf, pageOf, placeOf } from "./shots.js";

const MOST_KEPT = 500;

const plain = (value) => Number(value.toPrecision(2)).toLocaleString(locale);
const shutter = (seconds) => (seconds < 0.4 ? `1/${number(Math.round(1 / seconds))} s` : `${plain(seconds)} s`);
function focal({ focal_length_mm: real, focal_length_35mm: as35 }) {
  const length = `${number(Number(real.toFixed(real < 10 ? 1 : 0)))} mm`;
  return as35 && Math.abs(as35 / real - 1) > 0.1 ? t("focal.as_35mm", { length, n: Math.round(as35) }) : length;
}

/** What people call the format of a file: of those that are known by a family of formats, which of it. */
function formatOf({ format, name }) {
  const ending = name.match(/\.(\w+)$/)?.[1].toUpperCase();
  const kind = ending === "GLTF" ? "glTF" : ending;
  if (format === "MESH" && kind) return t("format.model", { kind });
  return format === "VIDEO" && kind ? t("format.video", { kind }) : format;
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
    const stays = this.hit?.row_id === hit.row_id ? this.root.scrollTop : 0;
    this.hit = hit;
    this.index = index;
    const rating = this.on.rating(hit);
    const thumbs = [
      button(`cs-action${rating > 0 ? ".cs-on" : ""}`, "up", t("detail.up"), () => this.on.rate(hit, 1)),
      button(`cs-action${rating < 0 ? ".cs-on" : ""}`, "down", t("detail.down"), () => this.on.rate(hit, -1)),
    ];
    const facts = make("dl.cs-facts");
    for (const [what, value] of this.facts(hit)) facts.append(make("dt", {}, what), make("dd", {}, value));
    this.addExposure(hit, index, facts);
    this.root.replaceChildren(
      make("header", {},
        make("h2", { title: shown(hit.name) }, baseName(hit)),
        button("cs-plain", "close", t("detail.hide"), () => this.on.hide()),
      ),
      make("div.cs-actions", {},
        button("cs-action.cs-wide", "similar", t("detail.similar"), () => this.on.similar(hit), t("detail.more")),
        button("cs-action.cs-wide", "close", t("detail.without"), () => this.on.without(hit), t("detail.less")),
        ...thumbs,
        button(`cs-action.cs-select${this.on.isSelected(hit) ? ".cs-on" : ""}`, "check", t("detail.select"), () => this.on.select(hit)),
        button("cs-action.cs-copy", "copy", t("detail.copy"), () => this.on.copy(shown(hit.path))),
      ),
      facts,
      ...this.others(hit),
    );
    for (const one of this.root.querySelectorAll("button")) one.dataset.what = one.title;
    if (held) [...this.root.querySelectorAll("button")].find((one) => one.dataset.what === held)?.focus();
    this.root.scrollTop = stays;
  }

  facts(hit) {
    const rows = [];
    if (hit.title) rows.push([t("fact.title"), make("span.cs-words", {}, hit.title)]);
    if (hit.caption) rows.push([t("fact.caption"), make("span.cs-words", {}, hit.caption)]);
    if (hit.people?.length) rows.push([t("fact.people"), this.values("person", hit.people, (name) => name)]);
    if (hit.keywords?.length) rows.push([t("fact.keywords"), this.values("keyword", hit.keywords, (word) => word.replaceAll("|", " › "))]);
    for (const [name, lines] of [[t("fact.words"), hit.words?.filter(({ by }) => !by)], [t("fact.generated"), hit.words?.filter(({ by }) => by)]]) {
      if (lines?.length) rows.push([name, make("span.cs-words", {}, lines.map(({ text }) => text).join("\n"))]);
    }
    if (hit.columns?.length) rows.push([t("fact.columns"), this.values("column", hit.columns, (one) => one.replace("=", ": "))]);
    if (hit.rating) rows.push([t("fact.rating"), hit.rating < 0 ? t("fact.rejected") : `${"★".repeat(hit.rating)}${"☆".repeat(5 - hit.rating)}`]);
    const place = placeOf(hit);
    if (pageOf(hit) !== null) rows.push([t("fact.page"), number(place)]);
    else if (angleOf(hit) !== null) rows.push([t("fact.angle"), number(place)]);
    else if (place !== null) rows.push([t("fact.moment"), clock(place)]);
    if (hit.band) rows.push([t("fact.match"), bandTitle(hit)]);
    else if (typeof hit.score === "number") rows.push([t("fact.score"), hit.score.toLocaleString(locale, { minimumFractionDigits: 3, maximumFractionDigits: 3 })]);
    const size = hit.width ? `${number(hit.width)} × ${number(hit.height)}, ${bytes(hit.size_bytes)}` : bytes(hit.size_bytes);
    rows.push([t("fact.size"), make("span.cs-size", {}, size)]);
    if (hit.taken_at) rows.push([t("fact.taken"), localMoment(hit.taken_at)]);
    if (hit.camera) rows.push([t("fact.camera"), make("span.cs-camera", {}, hit.camera)]);
    if (typeof hit.latitude === "number" && typeof hit.longitude === "number") {
      const place = `${hit.latitude.toFixed(5)},${hit.longitude.toFixed(5)}`;
      rows.push([t("fact.place"), make("span.cs-place", {}, `${place} `, button("cs-link", null, t("detail.near"),
        () => this.on.near(place), t("detail.near_here")))]);
    }
    rows.push([t("fact.changed"), moment(new Date(hit.mtime_ns / 1e6))]);
    if (hit.format) rows.push([t("fact.format"), formatOf(hit)]);
    const folder = shown(hit.member ? `${hit.name}/${hit.member}` : hit.name).split("/").slice(0, -1).join("/");
    if (folder) rows.push([t("fact.folder"), button("cs-link", null, t("detail.folder"), () => this.on.folder(folder), folder)]);
    if (hit.index) rows.push([t("fact.index"), shown(hit.index)]);
    rows.push([t("fact.path"), make("code", {}, shown(hit.member ? hit.where.replace(/#xywh=[^#]*$/, "") : hit.path))]);
    rows.push([t("fact.row"), `${hit.row_id} (like:${hit.row_id})`]);
    return rows;
  }

  /** Words that a click asks for. */
  values(field, words, text) {
    const all = words.map((word) => button("cs-link", null, t(`detail.only_${field}`), () => this.on.only(field, word), text(word)));
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
    if (told.lens) rows.push([t("fact.lens"), told.lens]);
    if (settings.length) rows.push([t("fact.exposure"), settings.join(" · ")]);
    const camera = (facts.querySelector(".cs-camera") ?? facts.querySelector(".cs-size"))?.parentNode;
    for (const [what, value] of rows.reverse()) camera?.after(make("dt", {}, what), make("dd", {}, value));
    if (told.place) {
      const within = told.place.split(", ");
      const place = [...within.slice(0, -1), country(told.country, within.at(-1))].join(", ");
      facts.querySelector(".cs-place")?.prepend(`${place} · `);
    }
  }

  others(hit) {
    if (!hit.others?.length) return [];
    const strip = make("div.cs-strip");
    for (const other of hit.others) {
      const image = make("img", { alt: "", src: thumbnail(other, this.index, 128) });
      strip.append(make("button", { type: "button", title: baseName(other), "aria-label": baseName(other), onclick: () => this.on.open(other) }, image));
    }
    return [make("h3", {}, t("detail.others")), strip];
  }

  close() {
    this.hit = null;
    this.root.replaceChildren();
  }
}
