// A rail beside pictures that are sorted by date: years along it, and a handle that goes to any month.

import { make } from "./dom.js";
import { monthName, t } from "./messages.js";

const LEAST_BETWEEN = 26; // pixels between two years that are named
const SHOWN_MS = 1200; // how long the month stays beside the handle after scrolling
const AWAKE_MS = 2500; // how long a phone's handle stays
const FEWEST_MONTHS = 4; // or there is nothing to go to

export class Scrubber {
  constructor(root, gallery) {
    this.root = root;
    this.gallery = gallery;
    this.handle = make("div.cs-handle", { role: "slider", tabIndex: 0, "aria-orientation": "vertical", "aria-label": t("scrubber.month") });
    this.bubble = make("div.cs-bubble", { hidden: true });
    this.years = make("div.cs-years", { "aria-hidden": "true" });
    root.append(this.years, this.handle, this.bubble);
    root.hidden = true;
    root.addEventListener("pointerdown", (event) => this.grab(event));
    root.addEventListener("pointermove", (event) => this.drag(event));
    for (const kind of ["pointerup", "pointercancel"]) root.addEventListener(kind, () => this.release());
    root.addEventListener("pointerenter", () => this.tell());
    this.handle.addEventListener("keydown", (event) => this.key(event));
    this.handle.addEventListener("focus", () => this.tell());
    addEventListener("resize", () => this.draw());
  }

  get layout() { return this.gallery.plan; }

  /** Draw the years of the gallery's layout, or nothing where it has no months. */
  draw() {
    const headings = this.layout?.headings ?? [];
    this.drawn = `${this.layout?.width} ${this.layout?.height}`;
    const top = this.top();
    const reach = (this.layout?.height ?? 0) - innerHeight;
    this.root.hidden = headings.length < FEWEST_MONTHS || reach < innerHeight || this.gallery.root.offsetParent === null;
    document.documentElement.classList.toggle("cs-scrubbed", !this.root.hidden);
    if (this.root.hidden) return;
    this.root.style.top = `${top}px`;
    const length = this.length();
    const marks = [];
    let last = -Infinity;
    headings.forEach(({ y, month }, at) => {
      const year = month.slice(0, 4);
      if (year === headings[at - 1]?.month.slice(0, 4)) return;
      const place = Math.min(1, y / reach) * length;
      const named = place - last >= LEAST_BETWEEN && place <= length - 8;
      if (named) last = place;
      const mark = make(named ? "span.cs-year" : "span.cs-tick", {}, named ? year : "");
      mark.style.top = `${place}px`;
      marks.push(mark);
    });
    this.years.replaceChildren(...marks);
    this.handle.setAttribute("aria-valuemin", "0");
    this.handle.setAttribute("aria-valuemax", String(headings.length - 1));
    this.follow();
  }

  top() { return Math.max(72, document.querySelector(".cs-header")?.getBoundingClientRect().bottom + 10 || 0); }

  length() { return Math.max(80, innerHeight - this.top() - 24 - this.handle.offsetHeight); }

  /** Where the window is, as a height of the gallery. */
  get here() { return -this.gallery.root.getBoundingClientRect().top + this.top(); }

  /** The handle goes where the window is. */
  follow() {
    if (this.root.hidden) return;
    const reach = Math.max(1, this.layout.height - innerHeight);
    const share = Math.max(0, Math.min(1, (this.here - this.top()) / reach));
    this.handle.style.translate = `0 ${share * this.length()}px`;
    this.bubble.style.translate = `0 ${share * this.length()}px`;
    const at = this.at = this.layout.monthAt(this.here + 40);
    const { month, count } = this.layout.headings[at];
    const text = t("scrubber.at", { month: monthName(month), n: count });
    if (this.bubble.firstChild?.data !== monthName(month)) this.bubble.replaceChildren(monthName(month));
    if (this.handle.getAttribute("aria-valuetext") !== text) {
      this.handle.setAttribute("aria-valuenow", String(at));
      this.handle.setAttribute("aria-valuetext", text);
    }
  }

  tell() {
    if (this.root.hidden) return;
    this.bubble.hidden = false;
    clearTimeout(this.timer);
    if (!this.held) this.timer = setTimeout(() => { this.bubble.hidden = true; }, SHOWN_MS);
  }

  /** After the window moved. */
  moved() {
    if (this.drawn !== `${this.layout.width} ${this.layout.height}`) { this.draw(); return; }
    this.follow();
    this.wake();
    if (this.held || this.root.matches(":hover, :focus-within")) this.tell();
  }

  /** On phones the handle is seen after scrolling only: it would lie over pictures. */
  wake() {
    if (Math.abs(scrollY - (this.seenAt ?? scrollY)) > 2) {
      this.root.classList.add("cs-awake");
      clearTimeout(this.sleep);
      this.sleep = setTimeout(() => this.root.classList.remove("cs-awake"), AWAKE_MS);
    }
    this.seenAt = scrollY;
  }

  goTo(y) {
    const offset = this.gallery.root.getBoundingClientRect().top + scrollY;
    scrollTo(0, Math.max(0, offset + y - this.top()));
  }

  goToMonth(at) {
    const { headings } = this.layout;
    const next = headings[Math.max(0, Math.min(headings.length - 1, at))];
    if (next) this.goTo(next.y);
    this.tell();
  }

  grab(event) {
    if (event.button > 0) return;
    event.preventDefault();
    this.held = true;
    this.root.classList.add("cs-held");
    this.root.setPointerCapture(event.pointerId);
    this.handle.focus({ preventScroll: true });
    this.drag(event);
  }

  drag(event) {
    if (!this.held) { this.tell(); return; }
    const share = Math.max(0, Math.min(1, (event.clientY - this.top()) / this.length()));
    this.goTo(share * (this.layout.height - innerHeight) + this.top());
    this.tell();
  }

  release() {
    this.held = false;
    this.root.classList.remove("cs-held");
    this.tell();
  }

  key(event) {
    const { headings } = this.layout;
    const year = (at) => headings[at]?.month.slice(0, 4);
    const now = this.layout.monthAt(this.here + 4);
    let to;
    if (event.key === "ArrowDown" || event.key === "ArrowRight") to = this.layout.monthBeside(now, 1);
    else if (event.key === "ArrowUp" || event.key === "ArrowLeft") to = this.layout.monthBeside(now, -1);
    else if (event.key === "PageDown") {
      const { y } = headings[now]; // a line may be of several years
      to = now;
      while (to < headings.length - 1 && (year(to) === year(now) || headings[to].y === y)) to++;
    }
    else if (event.key === "PageUp") {
      to = now;
      while (to > 0 && year(to) === year(now)) to--;
      while (to > 0 && year(to - 1) === year(to)) to--;
    } else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = headings.length - 1;
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.goToMonth(to);
  }
}
