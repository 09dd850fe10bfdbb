// A rectangle over the picture of the large view, to search by what is in it: drawn with the mouse or a finger, or moved
// and resized with keys.

import { button, make } from "./dom.js";
import { share, t } from "./messages.js";

const LEAST = 0.02; // of a side
const STEP = 0.02;

export class Crop {
  /** `picture()` is where the picture is on the screen; `on` has search(left, top, width, height), ended(). */
  constructor(picture, on) {
    Object.assign(this, { picture, on });
    this.frame = make("div.cs-frame", { tabIndex: 0, role: "application", "aria-label": t("crop.frame") });
    this.frame.addEventListener("keydown", (event) => this.key(event));
    this.hint = make("span.cs-crop-hint", { role: "status" });
    this.bar = make("div.cs-crop-bar", {}, this.hint,
      button("cs-button.cs-main", "search", t("crop.search"), () => this.on.search(...this.part), t("crop.search")),
      button("cs-plain", "close", t("crop.cancel"), () => this.end()));
    this.root = make("div.cs-crop", { hidden: true }, this.frame, this.bar);
    this.root.addEventListener("pointerdown", (event) => this.begin(event));
    this.root.addEventListener("touchstart", (event) => {
      if (!this.bar.contains(event.target)) event.preventDefault(); // no fling, which would swallow the next tap
    }, { passive: false });
    for (const name of ["pointermove", "pointerup", "pointercancel", "click", "dblclick", "wheel"]) {
      this.root.addEventListener(name, (event) => event.stopPropagation()); // not for what lies below
    }
  }

  get isOn() { return !this.root.hidden; }

  start() {
    this.root.hidden = false;
    this.hint.textContent = t("crop.hint");
    this.part = this.middle(); // left, top, width, height, in shares of the picture
    this.draw();
    this.frame.focus({ preventScroll: true });
  }

  end() {
    if (!this.isOn) return;
    this.root.hidden = true;
    this.on.ended();
  }

  /** The middle of what is seen of the picture. */
  middle() {
    const { left, top, width, height } = this.picture();
    const own = this.root.getBoundingClientRect();
    const seen = (from, to, start, length) => [Math.max(0, (from - start) / length), Math.min(1, (to - start) / length)];
    const [x, right] = seen(own.left, own.right, left, width), [y, bottom] = seen(own.top, own.bottom, top, height);
    return [x + (right - x) / 4, y + (bottom - y) / 4, (right - x) / 2, (bottom - y) / 2];
  }

  draw() {
    const { left, top, width, height } = this.picture();
    const own = this.root.getBoundingClientRect();
    const [x, y, w, h] = this.part;
    Object.assign(this.frame.style, {
      left: `${left - own.left + x * width}px`, top: `${top - own.top + y * height}px`, width: `${w * width}px`, height: `${h * height}px`,
    });
  }

  /** Where the pointer is, in shares of the picture. */
  at(event) {
    const { left, top, width, height } = this.picture();
    const within = (share) => Math.min(1, Math.max(0, share));
    return [within((event.clientX - left) / width), within((event.clientY - top) / height)];
  }

  begin(event) {
    event.stopPropagation();
    if (event.button || this.bar.contains(event.target)) return;
    event.preventDefault();
    const from = this.at(event), before = this.part;
    const move = (moved) => {
      const to = this.at(moved);
      this.part = [...from.map((one, n) => Math.min(one, to[n])), ...from.map((one, n) => Math.abs(one - to[n]))];
      this.draw();
    };
    const done = () => {
      this.root.removeEventListener("pointermove", move);
      if (this.part[2] < LEAST || this.part[3] < LEAST) this.part = before; // a click
      this.draw();
      this.frame.focus({ preventScroll: true });
    };
    this.root.setPointerCapture(event.pointerId);
    this.root.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) this.root.addEventListener(name, done, { once: true });
  }

  key(event) {
    const way = { ArrowLeft: [0, -STEP], ArrowRight: [0, STEP], ArrowUp: [1, -STEP], ArrowDown: [1, STEP] }[event.key];
    if (event.key === "Enter") this.on.search(...this.part);
    else if (way && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const [axis, by] = way;
      const [start, length] = [this.part[axis], this.part[axis + 2]];
      if (event.shiftKey) this.part[axis + 2] = Math.min(1 - start, Math.max(LEAST, length + by));
      else this.part[axis] = Math.min(1 - length, Math.max(0, start + by));
      this.draw();
      const [x, y, w, h] = this.part.map(share);
      this.hint.textContent = `${x}, ${y} · ${w} × ${h}`; // also for those who do not see it
    } else return;
    event.preventDefault();
  }
}
