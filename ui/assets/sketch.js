// A sheet of paper in a dialog, to draw what one looks for: with the mouse, a finger, a pen or keys. The drawing is kept
// when the dialog is closed, until it is cleared or the page is left. The paper is white in the dark look, too.

import { button, make } from "./dom.js";
import { share, t } from "./messages.js";

const SIDE = 640; // of the paper, in its own pixels
const STEP = 16;
const PAPER = "#ffffff";
const COLOURS = [
  ["#1c1c1c", t("option.color.black")], ["#606060", t("sketch.dark_grey")], ["#9a9a9a", t("option.color.gray")], ["#d0d0d0", t("sketch.light_grey")],
  ["#c62828", t("option.color.red")], ["#f2c230", t("option.color.yellow")], ["#2e8b3d", t("option.color.green")], ["#2f6fd0", t("option.color.blue")], ["#7a4f2a", t("option.color.brown")],
];
const WIDTHS = [4, 14, 36, 80];
const ERASER_BUTTON = 5; // the other end of a pen

export class Sketch {
  /** `on` has search(picture), with the drawing as a PNG file, and closed(). */
  constructor(root, on) {
    this.on = on;
    this.lines = []; // in their order: {colour, points: [[x, y, width]]}; null where the paper was cleared
    this.colour = COLOURS[1][0];
    this.width = WIDTHS[1];
    this.place = [SIDE / 2, SIDE / 2]; // of the pencil that keys move
    this.paper = make("canvas.cs-paper", { width: SIDE, height: SIDE, tabIndex: 0, role: "application", "aria-label": t("sketch.paper") });
    this.context = this.paper.getContext("2d");
    this.mark = make("span.cs-sketch-mark", { hidden: true });
    this.where = make("p.cs-unseen", { role: "status" });
    this.main = button("cs-button.cs-main", "search", t("sketch.search"), () => this.search(), t("sketch.search"));
    this.back = button("cs-button", "back", t("sketch.undo_title"), () => this.undo(), t("sketch.undo"));
    this.wipe = button("cs-button", "bin", t("sketch.clear_title"), () => this.clear(), t("sketch.clear"));
    this.dialog = make("dialog.cs-help.cs-sketch", { "aria-label": t("sketch.title") },
      make("header", {}, make("h2", {}, t("sketch.title")), button("cs-plain", "close", t("close"), () => this.dialog.close())),
      make("p.cs-muted", {}, t("sketch.note")),
      make("div.cs-sheet", {}, this.paper, this.mark), this.where, this.tools(),
      make("div.cs-sketch-bar", {}, this.main, this.back, this.wipe));
    this.dialog.addEventListener("close", () => this.on.closed());
    this.dialog.addEventListener("keydown", (event) => this.undoKey(event));
    this.paper.addEventListener("keydown", (event) => this.key(event));
    this.paper.addEventListener("blur", () => { this.mark.hidden = true; });
    this.paper.addEventListener("pointerdown", (event) => this.begin(event));
    root.append(this.dialog);
    this.draw();
  }

  get isOpen() { return this.dialog.open; }
  get isEmpty() { return !this.shown.some(({ colour }) => colour !== PAPER); }
  get shown() { return this.lines.slice(this.lines.lastIndexOf(null) + 1); }

  show() {
    this.dialog.showModal();
    this.paper.focus();
  }

  tools() {
    const choices = (label, all) => make("div.cs-pencils", { role: "group", "aria-label": label }, ...all);
    const dot = (width, colour) => {
      const one = make("span.cs-dot");
      one.style.cssText = `width:${width}px;height:${width}px;background:${colour}`;
      return one;
    };
    const pick = (title, inside, take) => make("button.cs-pencil", { type: "button", title, "aria-label": title, onclick: () => { take(); mark(); } }, inside);
    const colours = [...COLOURS, [PAPER, t("sketch.eraser")]].map(([colour, title]) => [colour, pick(title, dot(24, colour), () => { this.colour = colour; })]);
    const widths = WIDTHS.map((width, n) => [width, pick(t("sketch.width", { n: n + 1 }), dot(5 + 5 * n, "currentColor"), () => { this.width = width; })]);
    colours.at(-1)[1].classList.add("cs-eraser");
    const mark = () => {
      for (const [colour, one] of colours) one.setAttribute("aria-pressed", String(colour === this.colour));
      for (const [width, one] of widths) one.setAttribute("aria-pressed", String(width === this.width));
    };
    mark();
    return make("div.cs-sketch-tools", {}, choices(t("sketch.colours"), colours.map(([, one]) => one)), choices(t("sketch.widths"), widths.map(([, one]) => one)));
  }

  // ---- what is on the paper

  draw() {
    this.context.fillStyle = PAPER;
    this.context.fillRect(0, 0, SIDE, SIDE);
    for (const line of this.shown) this.stroke(line, 0);
    this.main.disabled = this.wipe.disabled = this.isEmpty;
    this.back.disabled = !this.lines.length;
  }

  /** Draw a line from one of its points on. */
  stroke({ colour, points }, from) {
    const { context } = this;
    Object.assign(context, { fillStyle: colour, strokeStyle: colour, lineCap: "round" });
    for (let n = from; n < points.length; n++) {
      const [x, y, width] = points[n];
      context.beginPath();
      if (n) { // a line that has no length is not drawn
        context.lineWidth = width;
        context.moveTo(points[n - 1][0], points[n - 1][1]);
        context.lineTo(x, y);
        context.stroke();
      } else {
        context.arc(x, y, width / 2, 0, 2 * Math.PI);
        context.fill();
      }
    }
  }

  undo() {
    if (!this.lines.length) return;
    this.lines.pop();
    this.line = null;
    this.redrawn();
  }

  clear() {
    this.lines.push(null);
    this.line = null;
    this.redrawn();
  }

  redrawn() {
    const held = document.activeElement;
    this.draw();
    if (held.disabled) this.paper.focus(); // or the focus would be lost
  }

  search() {
    if (this.isEmpty) return;
    this.paper.toBlob((picture) => {
      this.dialog.close();
      this.on.search(picture);
    }, "image/png");
  }

  // ---- the pointer and the keys

  begin(event) {
    if (!event.isPrimary || (event.button && event.button !== ERASER_BUTTON)) return;
    event.preventDefault();
    this.paper.focus({ preventScroll: true });
    this.mark.hidden = true;
    const line = { colour: event.button === ERASER_BUTTON ? PAPER : this.colour, points: [] };
    const reach = (moved) => {
      if (moved.pointerId !== event.pointerId) return;
      const { left, top, width, height } = this.paper.getBoundingClientRect();
      const steps = moved.getCoalescedEvents?.() ?? [];
      const from = line.points.length;
      for (const one of steps.length ? steps : [moved]) {
        const thick = one.pointerType === "pen" ? this.width * (0.3 + 1.4 * one.pressure) : this.width;
        line.points.push([(one.clientX - left) * SIDE / width, (one.clientY - top) * SIDE / height, thick]);
      }
      this.stroke(line, from);
    };
    const done = (last) => {
      if (last.pointerId !== event.pointerId) return;
      this.paper.removeEventListener("pointermove", reach);
      for (const name of ["pointerup", "pointercancel"]) this.paper.removeEventListener(name, done);
      this.draw();
    };
    this.line = null;
    this.lines.push(line);
    this.paper.setPointerCapture(event.pointerId);
    this.paper.addEventListener("pointermove", reach);
    for (const name of ["pointerup", "pointercancel"]) this.paper.addEventListener(name, done);
    reach(event);
  }

  key(event) {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Enter") this.search();
    else if (way) {
      const from = [...this.place, this.width];
      this.place = this.place.map((one, n) => Math.min(SIDE, Math.max(0, one + STEP * way[n])));
      if (!event.shiftKey) this.line = null; // lifted
      else {
        if (this.line?.colour !== this.colour) {
          this.line = { colour: this.colour, points: [from] };
          this.lines.push(this.line);
        }
        this.line.points.push([...this.place, this.width]);
        this.draw();
      }
      const [x, y] = this.place.map((one) => one / SIDE);
      Object.assign(this.mark.style, { left: `${100 * x}%`, top: `${100 * y}%` });
      this.mark.hidden = false;
      this.where.textContent = `${share(x)}, ${share(y)}`;
    } else return;
    event.preventDefault();
  }

  undoKey(event) {
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.shiftKey || event.altKey) return;
    event.preventDefault();
    this.undo();
  }
}
