// A gallery of any length: only the tiles near the window are in the document, and only pages near them are asked for.

import { thumbnail } from "./api.js";
import { button, icon, make, shown } from "./dom.js";

const PAGE = 120;
const PAGES_KEPT = 80;
const ROWS_BEYOND = 3; // rows of tiles that are kept ready above and below the window
const GAP = 8;
const TALLEST = 15_000_000; // pixels: browsers draw nothing below some height
const ASK_AFTER_MS = 40;

export class Gallery {
  /** `ask(offset, count, signal)` returns {hits}; `on` has open, select, rate, similar. */
  constructor(root, ask, on) {
    this.root = root;
    this.ask = ask;
    this.on = on;
    this.total = 0;
    this.index = "";
    this.pages = new Map();
    this.tiles = new Map();
    this.asking = new Map();
    this.selected = new Map();
    this.ratings = new Map();
    this.active = -1;
    this.columns = 1;
    this.row = 1;
    this.frame = 0;
    this.timer = 0;
    addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.later()).observe(root);
  }

  /** Show new results, beginning with the first page of them. */
  show(index, total, hits) {
    this.index = index;
    this.total = total;
    for (const controller of this.asking.values()) controller.abort();
    this.asking.clear();
    this.pages.clear();
    for (let n = 0; n * PAGE < hits.length; n++) this.pages.set(n, hits.slice(n * PAGE, (n + 1) * PAGE));
    this.active = -1;
    for (const n of [...this.tiles.keys()]) this.drop(n);
    this.layout();
  }

  static get first() { return PAGE; }

  item(n) { return this.pages.get(Math.floor(n / PAGE))?.[n % PAGE]; }

  later() { this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.layout(); }); }

  layout() {
    const width = this.root.clientWidth;
    if (!width) return;
    const least = width < 560 ? 104 : width < 1000 ? 150 : 184;
    const gap = width < 560 ? 4 : GAP;
    this.columns = Math.max(2, Math.floor((width + gap) / (least + gap)));
    const side = (width - gap * (this.columns - 1)) / this.columns;
    this.row = side + gap;
    this.lasting = Math.min(this.total, Math.floor(TALLEST / this.row) * this.columns);
    this.root.style.height = `${Math.ceil(this.lasting / this.columns) * this.row}px`;
    const top = -this.root.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / this.row) - ROWS_BEYOND) * this.columns;
    const beyond = Math.ceil((top + innerHeight) / this.row) + ROWS_BEYOND;
    const last = Math.min(this.lasting, Math.max(0, beyond) * this.columns);
    for (const n of [...this.tiles.keys()]) if (n < first || n >= last) this.drop(n);
    for (let n = first; n < last; n++) {
      let tile = this.tiles.get(n);
      if (!tile) {
        tile = this.tile(n);
        this.tiles.set(n, tile);
        this.root.append(tile);
      }
      const x = (n % this.columns) * this.row, y = Math.floor(n / this.columns) * this.row;
      tile.style.width = tile.style.height = `${side}px`;
      tile.style.transform = `translate(${x}px, ${y}px)`;
      if (!tile.dataset.id) this.fill(tile, n);
    }
    this.range = [first, last];
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.want(), ASK_AFTER_MS);
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
    for (const [page, controller] of this.asking) {
      if (page < from || page > to) { controller.abort(); this.asking.delete(page); }
    }
    for (let page = from; page <= to && page * PAGE < this.total; page++) {
      if (!this.pages.has(page) && !this.asking.has(page)) this.fetch(page);
    }
    for (const page of this.pages.keys()) {
      if (this.pages.size <= PAGES_KEPT) break;
      if (page < from - 2 || page > to + 2) this.pages.delete(page);
    }
  }

  async fetch(page) {
    const controller = new AbortController();
    this.asking.set(page, controller);
    try {
      const { hits } = await this.ask(page * PAGE, Math.min(PAGE, this.total - page * PAGE), controller.signal);
      if (controller.signal.aborted) return;
      this.pages.set(page, hits);
      this.later();
    } catch (error) {
      if (error.name !== "AbortError") setTimeout(() => this.later(), 2000);
    } finally {
      if (this.asking.get(page) === controller) this.asking.delete(page);
    }
  }

  tile(n) {
    const tile = make("div.cs-tile", { role: "option", tabIndex: -1, dataset: { n }, "aria-selected": "false" });
    tile.onclick = (event) => {
      const hit = this.item(n);
      if (!hit || event.target.closest("button")) return;
      if (event.ctrlKey || event.metaKey) this.toggle(n);
      else if (event.shiftKey) this.selectTo(n);
      else this.on.open(n);
    };
    return tile;
  }

  fill(tile, n) {
    const hit = this.item(n);
    if (!hit) return;
    const name = shown(hit.name);
    tile.dataset.id = hit.row_id;
    tile.title = name;
    tile.setAttribute("aria-label", name);
    const size = this.row * devicePixelRatio > 320 ? 512 : 256;
    const image = make("img", { alt: "", decoding: "async", draggable: false });
    image.onload = () => tile.classList.add("cs-loaded");
    image.onerror = () => { if (image.hasAttribute("src")) tile.classList.add("cs-broken"); };
    image.src = thumbnail(hit.row_id, this.index, size);
    const tools = make("div.cs-tools", {},
      button("cs-tool.cs-up", "up", "More like this (thumbs up)", () => this.on.rate(hit, 1)),
      button("cs-tool.cs-down", "down", "Less like this (thumbs down)", () => this.on.rate(hit, -1)),
      button("cs-tool.cs-similar", "similar", "Find similar pictures", () => this.on.similar(hit)),
    );
    const check = button("cs-check", "check", "Select", () => this.toggle(n));
    tile.append(image, make("span.cs-name", {}, name.split("/").pop()), tools, check);
    if (hit.others?.length) {
      tile.append(make("span.cs-others", { title: `${hit.others.length} near-duplicates` }, `+${hit.others.length}`));
    }
    if (hit.band) {
      tile.dataset.band = hit.band;
      tile.append(make("span.cs-band", { title: bandTitle(hit) }));
    }
    for (const tool of tile.querySelectorAll("button")) tool.tabIndex = -1;
    this.mark(tile, n);
  }

  mark(tile, n) {
    const hit = this.item(n);
    if (!hit) return;
    const chosen = this.selected.has(hit.row_id);
    tile.classList.toggle("cs-selected", chosen);
    tile.classList.toggle("cs-active", n === this.active);
    tile.setAttribute("aria-selected", String(chosen));
    tile.tabIndex = n === this.active ? 0 : -1;
    tile.dataset.rating = this.ratings.get(hit.row_id) ?? 0;
  }

  marks() { for (const [n, tile] of this.tiles) this.mark(tile, n); }

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
    const [first, last] = [this.anchor ?? 0, n].sort((a, b) => a - b);
    for (let at = first; at <= last; at++) {
      const hit = this.item(at);
      if (hit) this.selected.set(hit.row_id, hit);
    }
    this.marks();
    this.on.select();
  }

  clearSelection() {
    this.selected.clear();
    this.marks();
    this.on.select();
  }

  /** Make tile `n` the active one and bring it into the window. */
  activate(n, focus = true) {
    if (!this.total) return;
    this.active = Math.max(0, Math.min(this.lasting - 1, n));
    const top = this.root.getBoundingClientRect().top + Math.floor(this.active / this.columns) * this.row;
    const [above, below] = [140, innerHeight - 24];
    if (top < above) scrollBy(0, top - above);
    else if (top + this.row > below) scrollBy(0, top + this.row - below);
    this.layout();
    this.marks();
    if (focus) this.tiles.get(this.active)?.focus({ preventScroll: true });
  }

  /** How far an arrow key goes, in tiles. */
  step(key) {
    const page = Math.max(1, Math.floor(innerHeight / this.row) - 1) * this.columns;
    return { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, PageUp: -page, PageDown: page }[key];
  }
}

export function bandTitle(hit) {
  const words = { strong: "A strong match", maybe: "A possible match", unlikely: "An unlikely match" };
  const sure = hit.confidence === undefined || hit.confidence === null ? "" : ` (${Math.round(100 * hit.confidence)} %)`;
  return `${words[hit.band]}${sure}`;
}
