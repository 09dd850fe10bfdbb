// What the keys do and how to ask, in a dialog.

import { button, make } from "./dom.js";

const KEYS = [
  ["/", "to the box; ↓ from there to the pictures, or into the suggestions"],
  ["arrows, Home, End, PgUp, PgDn", "from picture to picture"],
  ["Enter", "open a picture; Esc closes it"],
  ["x, space", "select; Shift-click selects a range, Ctrl-A everything"],
  ["+ −", "more of this kind, less of it"],
  ["s", "pictures like this one"],
  ["c", "copy the path"],
];
const LARGE = [
  ["← →", "previous, next; along a picture that is larger than the window"],
  ["z, double click, wheel", "zoom; drag to move"],
  ["p", "slideshow"],
  ["f", "full screen"],
  ["i", "information"],
  ["o", "the original file"],
];
const QUERIES = [
  ["dog on a beach", "pictures that show it"],
  ["beach -people", "without something"],
  ["camera:*pixel* after:2023-05", "filters, alone or with words"],
  ["folder:trips/** width:>2000", "by folder and size"],
  ["near:lisbon", "taken near a town, or near coordinates: near:48.85,2.35,10km"],
  ["like:12 + snow", "like picture 12, with snow"],
];

export class Help {
  constructor(root) {
    this.dialog = make("dialog.cs-help", { "aria-label": "Help" });
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close(); });
    root.append(this.dialog);
  }

  get isOpen() { return this.dialog.open; }

  show() {
    const part = (title, rows, tag) => [make("h3", {}, title), make("dl", {},
      ...rows.flatMap(([what, meaning]) => [make("dt", {}, make(tag, {}, what)), make("dd", {}, meaning)]))];
    this.dialog.replaceChildren(
      make("header", {}, make("h2", {}, "Help"), button("cs-plain", "close", "Close (Esc)", () => this.dialog.close())),
      ...part("Ask", QUERIES, "code"), ...part("Keys", KEYS, "kbd"), ...part("Keys of the large view", LARGE, "kbd"),
    );
    this.dialog.showModal();
  }
}
