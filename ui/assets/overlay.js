// What is drawn over the picture of the large view: where the question matches, the words that it found, the part that a
// hit is. All of it moves with the picture.

import { make } from "./dom.js";
import { t } from "./messages.js";

const OPACITY = 0.6;

/** The box of a view, "xywh=10,20,300,200" or "xywh=percent:0,0,50,50", in shares of the picture; null for others. */
export function boxOf({ view, width, height }) {
  const [, percent, ...sides] = /^xywh=(?:pixel:)?(percent:)?([\d.]+),([\d.]+),([\d.]+),([\d.]+)$/.exec(view ?? "") ?? [];
  if (!sides.length || (!percent && !width)) return null;
  return sides.map((side, n) => Number(side) / (percent ? 100 : n % 2 ? height : width));
}

export class Overlay {
  constructor() {
    this.root = make("div.cs-over");
    this.heat = make("canvas.cs-heat", { hidden: true });
    this.root.append(this.heat);
  }

  /** Lie over the picture of a slide, with nothing on it but what `hit` says. */
  over(slide, hit) {
    this.hit = hit;
    this.clear(".cs-box");
    this.heat.hidden = true;
    slide.container.append(this.root);
    this.fit(slide.content);
    const part = boxOf(hit);
    if (part) this.box("part", part);
    this.words(hit.words ?? [], "asked");
  }

  /** Be as large as the picture is shown. */
  fit(content) {
    this.root.style.width = `${content.displayedImageWidth}px`;
    this.root.style.height = `${content.displayedImageHeight}px`;
  }

  clear(kind) { for (const one of this.root.querySelectorAll(kind)) one.remove(); }

  /** A frame around left, top, width and height, in shares of the picture. */
  box(kind, [left, top, width, height], title) {
    const place = Object.entries({ left, top, width, height }).map(([side, share]) => `${side}:${100 * share}%`);
    const frame = make(`div.cs-box.cs-${kind}`, { title });
    frame.style.cssText = place.join(";");
    this.root.append(frame);
    return frame;
  }

  inShares([left, top, width, height], of = this.hit) {
    return [left / of.width, top / of.height, width / of.width, height / of.height];
  }

  /** Frames around lines of words: those that were asked for, or all. */
  words(lines, kind) {
    if (!this.hit.width) return;
    for (const { text, box } of lines) if (box?.[2]) this.box(kind, this.inShares(box), text);
  }

  get isWhereShown() { return !this.heat.hidden; }

  /** Where the question matches, as `api.where` told it. */
  showWhere(found) {
    this.hideWhere();
    const rows = found.scores.length, columns = found.scores[0].length;
    const sorted = found.scores.flat().sort((a, b) => a - b);
    const low = (sorted[Math.floor((sorted.length - 1) / 2)] + sorted[Math.ceil((sorted.length - 1) / 2)]) / 2;
    const range = Math.max(sorted.at(-1) - low, 1e-6);
    Object.assign(this.heat, { width: columns, height: rows, hidden: false });
    const context = this.heat.getContext("2d");
    const image = context.createImageData(columns, rows);
    found.scores.flat().forEach((score, n) => {
      const level = Math.min(1, Math.max(0, (score - low) / range));
      image.data.set([255 * Math.min(1, 2 * level), 255 * Math.max(0, 2 * level - 1), 255 * Math.max(0, 1 - 2 * level), 255 * OPACITY * level], 4 * n);
    });
    context.putImageData(image, 0, 0);
    this.box(found.band === "strong" ? "where" : "where.cs-unsure", this.inShares(found.box, found));
  }

  hideWhere() {
    this.heat.hidden = true;
    this.clear(".cs-where");
  }
}

/** How sure it is that the picture shows what was asked for, in a sentence. */
export const surety = ({ band }) => t(`where.${band ?? "maybe"}`);
