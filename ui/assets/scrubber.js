// A rail beside pictures that are sorted by date: years along it, and a handle that goes to any month.

import { make } from "./dom.js";
import { monthName, t } from "./messages.js";

const LEAST_BETWEEN = 26; // pixels between two years that are named
const TICK_BETWEEN = 9; // pixels between the name of a year and a tick, which would lie over it
const SHOWN_MS = 1200; // how long the month stays beside the handle after scrolling
const AWAKE_MS = 2500; // how long a phone's handle stays
const FEWEST_MONTHS = 4; // or there is nothing to go to
const AT_TOP = 40; // pixels: a month that begins so little below the top is the one that the window is at

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
    this.root.hidden = headings.length < FEWEST_MONTHS || this.layout.height < 2 * innerHeight || this.gallery.root.offsetParent === null;
    document.documentElement.classList.toggle("cs-scrubbed", !this.root.hidden);
    if (this.root.hidden) return;
    this.root.style.top = `${top}px`;
    const length = this.length();
    const { reach } = this;
    const marks = [];
    let last = -Infinity, lastTick = -Infinity;
    headings.forEach(({ y, month }, at) => {
      const year = month.slice(0, 4);
      if (year === headings[at - 1]?.month.slice(0, 4)) return;
      const place = (this.scrolledTo(y) / reach) * length;
      const named = place - last >= LEAST_BETWEEN && place <= length - 8;
      if (named) {
        while (marks.at(-1)?.className === "cs-tick" && place - lastTick < TICK_BETWEEN) {
          marks.pop();
          lastTick = parseFloat(marks.at(-1)?.style.top ?? -Infinity);
        }
        last = place;
      } else if (place - last < TICK_BETWEEN) return;
      else lastTick = place;
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

  /** How far the window is scrolled from where the gallery is at its top; and how far it can be. */
  get scrolled() { return -this.gallery.root.getBoundingClientRect().top; }

  get reach() { return Math.max(1, document.documentElement.scrollHeight - innerHeight - scrollY + this.scrolled); }

  /** The last window cannot be scrolled to have each of its months at the top: over its height, the month that is told
   *  goes from the one at the top to the last. Where that begins, and how far it goes beyond the window's own way. */
  get ending() {
    const { reach } = this;
    const height = Math.min(innerHeight - this.top(), reach);
    return { from: reach - height, height, more: Math.max(0, this.layout.height - 1 - AT_TOP - reach - this.top()) };
  }

  /** How far to scroll, to be told of what is at a height of the gallery. */
  scrolledTo(y) {
    const { from, height, more } = this.ending;
    const above = y - this.top();
    return Math.max(0, Math.min(this.reach, above <= from ? above : (above * height + more * from) / (height + more)));
  }

  /** The month that the window is at. */
  monthHere() {
    const { scrolled, reach } = this;
    if (reach - scrolled < 1.5) return this.layout.headings.length - 1; // a line may be of several
    const { from, height, more } = this.ending;
    return this.layout.monthAt(scrolled + this.top() + AT_TOP + (more * Math.max(0, scrolled - from)) / height);
  }

  /** The handle goes where the window is. */
  follow() {
    if (this.root.hidden) return;
    const share = Math.max(0, Math.min(1, this.scrolled / this.reach));
    this.handle.style.translate = `0 ${share * this.length()}px`;
    this.bubble.style.translate = `0 ${share * this.length()}px`;
    const at = this.at = this.monthHere();
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

  goTo(scrolled) { scrollTo(0, Math.max(0, scrollY - this.scrolled + scrolled)); }

  goToMonth(at) {
    const { headings } = this.layout;
    const next = headings[Math.max(0, Math.min(headings.length - 1, at))];
    if (next) this.goTo(this.scrolledTo(next.y));
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
    this.goTo(share * this.reach);
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
    const now = this.monthHere();
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
    else if (event.key !== "End") return;
    event.preventDefault();
    event.stopPropagation();
    if (event.key === "End") { this.goTo(this.reach); this.tell(); } else this.goToMonth(to);
  }
}
