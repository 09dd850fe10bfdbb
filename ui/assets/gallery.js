// A gallery of any length: only the tiles near the window are in the document, and only pages near them are asked for.

import { thumbnail } from "./api.js";
import { button, make, shown } from "./dom.js";
import { layoutOf, Squares } from "./layouts.js";
import { monthName, share, t } from "./messages.js";

const PAGE = 120;
const PAGES_KEPT = 80;
const ROWS_BEYOND = 3; // rows of tiles that are kept ready above and below the window
const ASK_AFTER_MS = 40;
const LONG_PRESS_MS = 450;
const STILL = 10; // pixels that a finger may move while it presses

export const baseName = (hit) => shown(hit.member || hit.name).split("/").pop();

/** Seconds as players show them: 1:13, 1:02:03. */
/** A moment of a video: 1:05, 1:02:03. */
export const clock = (seconds) => [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.floor(seconds) % 60]
  .filter((part, n) => n > 0 || part).map((part, n) => (n ? String(part).padStart(2, "0") : part)).join(":");

export class Gallery {
  /** `ask(offset, count, signal)` returns {hits}, `rows(offset, count)` row ids; `on` has open, select, rate, similar,
   * failed, and moved (the window was scrolled). */
  constructor(root, { ask, rows }, on) {
    this.root = root;
    this.ask = ask;
    this.rows = rows;
    this.on = on;
    this.total = 0;
    this.index = "";
    this.version = 0;
    this.pages = new Map();
    this.tiles = new Map();
    this.asking = new Map();
    this.wanted = new Set(); // pages that somebody waits for, wherever the window is
    this.selected = new Map(); // row ids, with the hit where it is known
    this.ratings = new Map();
    this.active = -1;
    this.plan = new Squares(0);
    this.months = new Map(); // headings in the document, by their number
    this.frame = 0;
    this.timer = 0;
    addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.later()).observe(root);
    root.addEventListener("focusin", (event) => {
      const n = Number(event.target.closest(".cs-tile")?.dataset.n ?? -1);
      if (n >= 0 && n !== this.active) { this.active = n; this.marks(); }
    });
    this.listenForLongPresses();
  }

  /** Show new results, beginning with the first page of them, in rows by month where `timeline` tells of months. */
  show(index, total, hits, timeline = null) {
    const focused = this.root.contains(document.activeElement);
    const id = focused ? document.activeElement.closest(".cs-tile")?.dataset.id : undefined;
    this.index = index;
    this.total = total;
    this.version++;
    for (const { controller } of this.asking.values()) controller.abort();
    this.asking.clear();
    this.wanted.clear();
    this.pages.clear();
    for (let n = 0; n * PAGE < hits.length; n++) this.pages.set(n, hits.slice(n * PAGE, (n + 1) * PAGE));
    this.active = -1;
    this.anchor = null; // a place of another order
    for (const n of [...this.tiles.keys()]) this.drop(n);
    for (const heading of this.months.values()) heading.remove();
    this.months.clear();
    this.plan = layoutOf(total, timeline);
    this.layout(0); // what is seen is painted first
    requestAnimationFrame(() => this.later());
    if (focused) {
      const same = hits.findIndex((hit) => String(hit.row_id) === id);
      if (total) this.activate(Math.max(0, same)); else this.root.focus();
    }
  }

  static get first() { return PAGE; }

  item(n) { return this.pages.get(Math.floor(n / PAGE))?.[n % PAGE]; }

  /** The hit at a place, asked for if need be; undefined where the results have changed meanwhile. */
  async load(n) {
    const version = this.version, page = Math.floor(n / PAGE);
    while (!this.item(n) && version === this.version && n >= 0 && n < this.total) {
      this.wanted.add(page);
      await (this.asking.get(page)?.done ?? this.fetch(page));
      this.wanted.delete(page);
    }
    return version === this.version ? this.item(n) : undefined;
  }

  later() { this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.layout(); }); }

  layout(beyond = ROWS_BEYOND) {
    const width = this.root.clientWidth;
    const { plan } = this;
    if (!width) return;
    if (plan.width !== width) {
      plan.measure(width);
      for (const [n, tile] of this.tiles) this.put(tile, n);
      for (const heading of this.months.values()) heading.remove();
      this.months.clear();
      this.root.style.height = `${plan.height}px`;
    }
    const top = -this.root.getBoundingClientRect().top;
    const [first, last] = plan.range(top, top + innerHeight, beyond);
    for (const [n, tile] of [...this.tiles]) {
      const keeps = n === this.active && tile.contains(document.activeElement); // or the focus would be lost
      if ((n < first || n >= last) && !keeps) this.drop(n);
    }
    for (let n = first; n < last; n++) {
      let tile = this.tiles.get(n);
      if (!tile) {
        tile = this.tile(n);
        this.put(tile, n);
        this.tiles.set(n, tile);
        this.insert(tile, n);
      }
      if (!tile.dataset.id) this.fill(tile, n);
    }
    this.drawMonths(top);
    this.range = [first, last];
    this.firstShown = plan.firstAt(top);
    if (this.entry !== this.marked) this.marks();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.want(), ASK_AFTER_MS);
    this.on.moved();
  }

  get lasting() { return this.plan.total; }

  /** Put an element among the tiles in their order, for Tab and screen readers: before the tile of the next place. */
  insert(element, n) {
    const before = this.tiles.get(n + 1) ?? null;
    const after = before ? null : this.tiles.get(n - 1);
    if (before) before.before(element);
    else if (after) after.after(element);
    else this.root.insertBefore(element, [...this.root.children].find((other) => Number(other.dataset.n) > n) ?? null);
  }

  put(tile, n) {
    const { x, y, width, height } = this.plan.box(n);
    tile.style.width = `${width}px`;
    tile.style.height = `${height}px`;
    tile.style.transform = `translate(${x}px, ${y}px)`;
  }

  drawMonths(top) {
    const wanted = new Set(this.plan.headingsIn(top - innerHeight, top + 2 * innerHeight));
    for (const [at, heading] of [...this.months]) {
      if (!wanted.has(at)) { heading.remove(); this.months.delete(at); }
    }
    for (const at of wanted) {
      if (this.months.has(at)) continue;
      const { x, y, month } = this.plan.headings[at];
      const heading = make("div.cs-month", { "aria-hidden": "true" }, monthName(month));
      heading.style.transform = `translate(${x}px, ${y}px)`;
      this.months.set(at, heading);
      this.root.append(heading);
    }
  }

  drop(n) {
    const tile = this.tiles.get(n);
    this.tiles.delete(n);
    tile.querySelector("img")?.removeAttribute("src"); // an unfinished request is given up
    tile.remove();
  }

  want() {
    const [first, last] = this.range;
    const [from, to] = [Math.floor(first / PAGE), Math.floor(Math.max(first, last - 1) / PAGE)];
    for (const [page, { controller }] of this.asking) {
      if ((page < from || page > to) && !this.wanted.has(page)) { controller.abort(); this.asking.delete(page); }
    }
    for (let page = from; page <= to && page * PAGE < this.total; page++) {
      if (!this.pages.has(page) && !this.asking.has(page)) this.fetch(page);
    }
    for (const page of this.pages.keys()) {
      if (this.pages.size <= PAGES_KEPT) break;
      if ((page < from - 2 || page > to + 2) && !this.wanted.has(page)) this.pages.delete(page);
    }
  }

  fetch(page) {
    const controller = new AbortController();
    const done = this.fetched(page, controller);
    this.asking.set(page, { controller, done });
    return done;
  }

  async fetched(page, controller) {
    try {
      const { hits } = await this.ask(page * PAGE, Math.min(PAGE, this.total - page * PAGE), controller.signal);
      if (controller.signal.aborted) return;
      this.pages.set(page, hits);
      this.later();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.on.failed(error);
      await new Promise((go) => setTimeout(go, 2000));
      this.later();
    } finally {
      if (this.asking.get(page)?.controller === controller) this.asking.delete(page);
    }
  }

  /** Pictures that could not be loaded are tried again. */
  retry() {
    for (const tile of this.tiles.values()) {
      if (!tile.classList.contains("cs-broken")) continue;
      tile.classList.remove("cs-broken");
      const image = tile.querySelector("img");
      image.src = image.src;
    }
    this.later();
  }

  tile(n) {
    const tile = make("div.cs-tile", { role: "listitem", dataset: { n }, "aria-posinset": n + 1, "aria-setsize": this.total });
    tile.onclick = (event) => {
      if (!this.item(n) || event.target.closest(".cs-tool, .cs-check")) return;
      if (event.ctrlKey || event.metaKey || (this.selected.size && event.pointerType === "touch")) this.toggle(n);
      else if (event.shiftKey) this.selectTo(n);
      else this.on.open(n);
    };
    return tile;
  }

  fill(tile, n) {
    const hit = this.item(n);
    if (!hit) return;
    const name = baseName(hit);
    tile.dataset.id = hit.row_id;
    tile.dataset.name = shown(hit.name);
    const { width, height } = this.plan.box(n);
    const longer = Math.max(width, height) * devicePixelRatio;
    const size = longer > 640 ? 1024 : longer > 320 ? 512 : 256;
    const image = make("img", { alt: "", decoding: "async", draggable: false });
    image.onload = () => tile.classList.add("cs-loaded");
    image.onerror = () => {
      if (!image.hasAttribute("src")) return;
      tile.classList.add("cs-broken");
      tile.title = t("tile.broken", { name: shown(hit.name) });
    };
    image.src = thumbnail(hit, this.index, size);
    const open = make("button.cs-open", { type: "button", title: shown(hit.index ? `${hit.name} (${hit.index})` : hit.name) }, image, make("span.cs-name", {}, name));
    open.setAttribute("aria-label", [name, hit.index && shown(hit.index), hit.band && bandTitle(hit)].filter(Boolean).join(", "));
    const tools = make("div.cs-tools", {},
      button("cs-tool.cs-up", "up", t("tile.up", { name }), () => this.on.rate(hit, 1)),
      button("cs-tool.cs-down", "down", t("tile.down", { name }), () => this.on.rate(hit, -1)),
      button("cs-tool.cs-similar", "similar", t("tile.similar", { name }), () => this.on.similar(hit)),
    );
    tile.append(open, button("cs-check", "check", t("tile.select", { name }), () => this.toggle(n)), tools);
    if (hit.others?.length) {
      tile.append(make("span.cs-others", { title: t("tile.others", { n: hit.others.length }) }, `+${hit.others.length}`));
    }
    if (hit.view?.startsWith("page=")) {
      tile.append(make("span.cs-moment", { title: t("tile.page") }, t("tile.page_n", { n: Number.parseInt(hit.view.slice(5), 10) })));
    } else if (hit.view?.startsWith("angle=")) {
      tile.append(make("span.cs-moment", { title: t("tile.angle") }, t("tile.model")));
    } else if (hit.view?.startsWith("t=")) {
      tile.append(make("span.cs-moment", { title: t("tile.moment") }, clock(Number.parseFloat(hit.view.slice(2)))));
    }
    if (hit.band) {
      tile.dataset.band = hit.band;
      tile.append(make("span.cs-band", { title: bandTitle(hit) }));
    }
    this.mark(tile, n);
  }

  /** The tile that Tab reaches: the active one, else the first that is seen. */
  get entry() { return this.tiles.has(this.active) ? this.active : this.firstShown ?? 0; }

  mark(tile, n) {
    const hit = this.item(n);
    if (!hit || !tile.dataset.id) return;
    const chosen = this.selected.has(hit.row_id);
    const rating = this.ratings.get(hit.row_id) ?? 0;
    tile.classList.toggle("cs-selected", chosen);
    tile.classList.toggle("cs-active", n === this.active);
    tile.dataset.rating = rating;
    tile.querySelector(".cs-check").setAttribute("aria-pressed", String(chosen));
    tile.querySelector(".cs-up").setAttribute("aria-pressed", String(rating > 0));
    tile.querySelector(".cs-down").setAttribute("aria-pressed", String(rating < 0));
    for (const one of tile.querySelectorAll("button")) one.tabIndex = n === this.entry ? 0 : -1;
  }

  marks() {
    this.marked = this.entry;
    for (const [n, tile] of this.tiles) this.mark(tile, n);
  }

  // ---- the selection

  toggle(n) {
    const hit = this.item(n);
    if (!hit) return;
    this.anchor = n;
    this.toggleHit(hit);
  }

  toggleHit(hit) {
    if (!this.selected.delete(hit.row_id)) this.selected.set(hit.row_id, hit);
    this.marks();
    this.on.select();
  }

  selectTo(n) {
    this.anchor ??= n;
    const [first, last] = [Math.min(this.anchor, this.total - 1), n].sort((a, b) => a - b);
    return this.selectRange(first, last);
  }

  /** Select all pictures from one place to another, also those that nobody has seen yet. */
  async selectRange(first, last) {
    const version = this.version;
    const known = [];
    for (let at = first; at <= last && this.item(at); at++) known.push(this.item(at));
    if (known.length <= last - first) {
      const ids = await this.rows(first, last - first + 1);
      if (version !== this.version) return;
      for (const id of ids) this.selected.set(id, this.selected.get(id) ?? null);
    }
    for (const hit of known) this.selected.set(hit.row_id, hit);
    this.marks();
    this.on.select();
  }

  clearSelection() {
    this.selected.clear();
    this.anchor = null;
    this.marks();
    this.on.select();
  }

  listenForLongPresses() {
    let timer = 0, from = null, pressed = false;
    const end = () => { clearTimeout(timer); from = null; };
    this.root.addEventListener("pointerdown", (event) => {
      pressed = false;
      const n = Number(event.target.closest(".cs-tile")?.dataset.n ?? -1);
      if (event.pointerType !== "touch" || n < 0) return;
      from = event;
      timer = setTimeout(() => {
        pressed = true;
        navigator.vibrate?.(10);
        this.toggle(n);
      }, LONG_PRESS_MS);
    });
    this.root.addEventListener("pointermove", (event) => {
      if (from && Math.hypot(event.clientX - from.clientX, event.clientY - from.clientY) > STILL) end();
    });
    for (const kind of ["pointerup", "pointercancel"]) this.root.addEventListener(kind, end);
    this.root.addEventListener("contextmenu", (event) => { if (from || pressed) event.preventDefault(); });
    this.root.addEventListener("click", (event) => {
      if (!pressed) return;
      pressed = false; // the finger that selected is lifted: that is no click
      event.preventDefault();
      event.stopPropagation();
    }, true);
  }

  // ---- places

  /** Make tile `n` the active one and bring it into the window. */
  activate(n, focus = true) {
    if (!this.total) return;
    this.layout();
    this.active = Math.max(0, Math.min(this.lasting - 1, n));
    const { y, height } = this.plan.box(this.active);
    const top = this.root.getBoundingClientRect().top + y;
    const [above, below] = [140, innerHeight - 24];
    if (top < above) scrollBy(0, top - above);
    else if (top + height > below) scrollBy(0, top + height - below);
    this.layout();
    this.marks();
    if (focus) this.focusActive();
  }

  async focusActive() {
    const n = this.active;
    if (!this.tiles.get(n)?.dataset.id) {
      this.root.focus({ preventScroll: true });
      if (!(await this.load(n)) || n !== this.active || document.activeElement !== this.root) return;
      this.layout();
    }
    this.tiles.get(n)?.querySelector(".cs-open")?.focus({ preventScroll: true });
  }

  /** Where the window is, such that `restore` finds it again in another width. */
  place() {
    this.layout();
    if (this.plan.width === undefined) return null; // it was never seen
    const top = -this.root.getBoundingClientRect().top;
    const [n] = this.plan.range(top, top, 0);
    return { n, past: top - this.plan.box(n).y, active: this.active, top: scrollY };
  }

  restore({ n, past, active, top }) {
    this.layout();
    if (n > 0 && n < this.lasting) scrollTo(0, scrollY + this.root.getBoundingClientRect().top + this.plan.box(n).y + past);
    else scrollTo(0, top);
    this.active = Math.min(active, this.total - 1);
    this.layout();
    this.marks();
  }

  /** Which tile a key goes to from the active one; undefined for other keys. */
  target(key) {
    const from = Math.max(0, this.active);
    if (key === "ArrowLeft" || key === "ArrowRight") return from + (key === "ArrowLeft" ? -1 : 1);
    if (key === "ArrowUp" || key === "ArrowDown") return this.plan.beside(from, key === "ArrowUp" ? -1 : 1);
    if (key !== "PageUp" && key !== "PageDown") return undefined;
    const way = key === "PageUp" ? -1 : 1;
    const { y } = this.plan.box(from);
    let to = from;
    while (Math.abs(this.plan.box(to).y - y) < innerHeight * 0.7) {
      const next = this.plan.beside(to, way);
      if (next === to) break;
      to = next;
    }
    return to;
  }
}

export function bandTitle(hit) {
  const sure = hit.confidence === undefined || hit.confidence === null ? "" : ` (${share(hit.confidence)})`;
  return `${t(`band.${hit.band}`)}${sure}`;
}
