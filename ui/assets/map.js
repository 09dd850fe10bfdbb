// Two maps of the hits of the present question: pictures that look alike lie near each other, or where they were taken on
// the Earth. A canvas; thumbnails where there is room, and under the pointer.

import { thumbnail } from "./api.js";
import { button, make } from "./dom.js";
import { Land, mercator } from "./earth.js";
import { country, named, number, t } from "./messages.js";

const CELL = 84; // pixels of the screen that one thumbnail has to itself
const SIDE = 72;
const MOST_KEPT = 600;
const REACH = 14;
const NEAR_SCALE = 2.2; // from here on, what smaller groups show is said, too
const MOST_REGIONS = 8;
const PILL_FONT = "600 13.5px system-ui, sans-serif";
const A_QUARTER = 90; // degrees that a map cut elsewhere than at the date line must save
const METROPOLIS = 1.2; // degrees: what lies nearer together is named after its largest town

export class PictureMap {
  /** `ask` has alike(question, signal) and earth(question, signal); `on` has open({row_id, content_hash}),
   * near(latitude, longitude, km), kind(name): somebody wants the other map. */
  constructor(root, ask, on) {
    this.root = root;
    this.ask = ask;
    this.on = on;
    this.kinds = make("div.cs-kinds", { role: "group", "aria-label": t("map.kind") },
      ...["alike", "earth"].map((kind) => {
        const one = button("cs-tab", null, t(`map.${kind}_title`), () => this.on.kind(kind), t(`map.${kind}`));
        one.dataset.kind = kind;
        return one;
      }));
    this.canvas = make("canvas", { tabIndex: 0, role: "img" });
    this.note = make("p.cs-note", { role: "status" });
    this.regions = make("div.cs-regions", { role: "group", "aria-label": t("map.earth"), hidden: true });
    this.card = make("img.cs-card", { alt: "", hidden: true });
    root.append(this.canvas, this.kinds, this.card, make("div.cs-map-foot", {}, this.regions, this.note));
    this.land = new Land(() => this.later());
    this.pictures = new Map();
    this.hover = -1;
    this.fingers = new Map();
    this.drawn = [];
    new ResizeObserver(() => this.later()).observe(this.canvas); // the words below it may take more lines
    this.listen();
  }

  get isEarth() { return this.kind === "earth"; }

  /** Show the hits of a question, which `key` names, on one of the maps. */
  async show(kind, key, question) {
    for (const one of this.kinds.children) one.setAttribute("aria-pressed", String(one.dataset.kind === kind));
    const asked = `${kind} ${key}`;
    if (this.asked === asked && this.points) { this.restore(); this.later(); return; }
    this.asked = asked;
    this.kind = kind;
    this.points = null;
    this.hover = -1;
    this.card.hidden = this.regions.hidden = true;
    this.pictures.clear();
    this.canvas.setAttribute("aria-label", t(`map.${kind}_label`));
    this.note.textContent = t("map.drawing");
    this.later();
    this.controller?.abort();
    const controller = this.controller = new AbortController();
    try {
      const points = await this.ask[kind](question, controller.signal);
      if (controller.signal.aborted) return;
      this.index = points.index;
      for (const region of points.regions ?? []) {
        region.country = country(region.code, region.country);
        region.shows = region.shows && named("thing", region.shows);
      }
      for (const label of points.labels ?? []) label.text = named("thing", label.text);
      if (this.isEarth) this.takeEarth(points); else this.takeAlike(points);
      this.restore();
    } catch (error) {
      if (error.name === "AbortError") return;
      this.asked = null;
      this.note.textContent = error.message.split("\n")[0];
    }
    this.later();
  }

  /** What is looked at, for whoever comes back: `restoring` is that, then. */
  kept() { return this.points && { ...this.view }; }

  restore() {
    if (this.restoring) this.view = { ...this.restoring };
    this.restoring = null;
  }

  takeAlike(points) {
    this.points = points;
    this.view = { scale: 1, x: 0.5, y: 0.5 };
    const { ids: { length }, total } = points;
    const part = length < total ? t("map.alike_of", { shown: length, n: total }) : t("map.alike_all", { n: total });
    this.note.textContent = total ? `${part} ${t("map.help")}` : t("map.nothing");
  }

  takeEarth(points) {
    const from = westernmost(points.longitudes);
    const longitudes = points.longitudes.map((one) => (one < from ? one + 360 : one)); // beyond 180, in the west of the date line
    const x = Float64Array.from(longitudes, (one) => one / 360 + 0.5);
    const y = Float64Array.from(points.latitudes, mercator);
    this.points = { ...points, longitudes, x, y, labels: [] };
    const { ids: { length }, with_place: known, total } = points;
    const part = length < known ? t("map.earth_of", { shown: length, n: known }) : t("map.earth_all", { n: known });
    const others = total - known ? t("map.elsewhere", { n: total - known }) : "";
    this.note.textContent = known ? [part, others, t("map.help")].filter(Boolean).join(" ") : t(total ? "map.nowhere" : "map.nothing");
    this.drawRegions();
    this.fit(points.ids.map((_, n) => n)); // above the words
  }

  /** The towns with most pictures, as buttons: for those who use no pointer, too. */
  drawRegions() {
    const { regions, within } = this.points;
    const members = regions.map(() => []);
    within.forEach((region, n) => { if (region >= 0) members[region].push(n); });
    const order = regions.map((_, n) => n).filter((n) => regions[n].name).sort((a, b) => members[b].length - members[a].length);
    this.regions.hidden = !order.length;
    this.regions.replaceChildren(...order.slice(0, MOST_REGIONS).map((n) => {
      const { name, country, shows } = regions[n];
      const one = button("cs-value", null, [`${name}, ${country}`, shows].filter(Boolean).join(": "), () => { this.fit(members[n]); this.later(); }, name);
      one.append(make("span.cs-count", {}, number(members[n].length)));
      return one;
    }));
  }

  /** Look at some pictures as near as possible. */
  fit(members) {
    const { x, y } = this.points;
    let [left, right, top, bottom] = [1, 0, 1, 0];
    for (const n of members) {
      [left, right] = [Math.min(left, x[n]), Math.max(right, x[n])];
      [top, bottom] = [Math.min(top, y[n]), Math.max(bottom, y[n])];
    }
    if (right < left) [left, right, top, bottom] = [0, 1, 0.2, 0.75];
    const [width, height] = [this.canvas.clientWidth || innerWidth, this.canvas.clientHeight || innerHeight];
    const side = 0.82 * Math.min(width, height);
    const [aside, above] = [Math.min(140, SIDE + width / 12), Math.min(190, SIDE + height / 6)]; // thumbnails stand out, and words
    const scale = Math.min((width - aside) / Math.max(right - left, 1e-9), (height - above) / Math.max(bottom - top, 1e-9)) / side;
    this.view = { scale: Math.max(0.5, Math.min(this.closest * 0.25, scale)), x: (left + right) / 2, y: (top + bottom) / 2 };
  }

  /** The largest scale: 20 m a pixel on the Earth. */
  get closest() { return this.isEarth ? 4000 : 400; }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, { x: event.offsetX, y: event.offsetY });
      this.moved = this.fingers.size > 1;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = this.fingers.get(event.pointerId);
      if (!before) { this.point(event.offsetX, event.offsetY); return; }
      const now = { x: event.offsetX, y: event.offsetY };
      const other = [...this.fingers].find(([id]) => id !== event.pointerId)?.[1];
      if (other) {
        const ratio = Math.hypot(now.x - other.x, now.y - other.y) / Math.max(1, Math.hypot(before.x - other.x, before.y - other.y));
        this.zoom(ratio, (now.x + other.x) / 2, (now.y + other.y) / 2);
      } else if (this.points) {
        if (!this.moved && Math.hypot(now.x - before.x, now.y - before.y) < 4) return;
        this.moved = true;
        this.view.x -= (now.x - before.x) / this.extent();
        this.view.y -= (now.y - before.y) / this.extent();
      }
      this.fingers.set(event.pointerId, now);
      this.later();
    });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(kind, (event) => {
        this.fingers.delete(event.pointerId);
        if (kind === "pointerup" && !this.moved) this.click(event.offsetX, event.offsetY);
      });
    }
    canvas.addEventListener("pointerleave", () => this.point(-1e4, -1e4));
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      if (!this.points) return;
      if (moves[event.key]) {
        this.view.x += moves[event.key][0] * 80 / this.extent();
        this.view.y += moves[event.key][1] * 80 / this.extent();
      } else if (event.key === "+" || event.key === "=") this.zoom(1.4, width / 2, height / 2);
      else if (event.key === "-") this.zoom(1 / 1.4, width / 2, height / 2);
      else if (event.key === "0") {
        if (this.isEarth) this.fit(this.points.ids.map((_, n) => n)); else this.view = { scale: 1, x: 0.5, y: 0.5 };
      } else if (event.key === "Enter") this.click(width / 2, height / 2, Infinity);
      else return;
      event.preventDefault();
      event.stopPropagation();
      this.later();
    });
  }

  /** Open the picture at a place of the canvas, or go nearer to those that share it. */
  click(x, y, reach = REACH) {
    const at = this.near(x, y, reach);
    if (at < 0) return;
    const group = this.groups?.get(at);
    if (!this.isEarth || !group || group.length < 2) { this.on.open(this.picture(at)); return; }
    const { latitudes, longitudes } = this.points;
    const [north, east] = [latitudes, longitudes].map((all) => Math.max(...group.map((n) => all[n])));
    const [south, west] = [latitudes, longitudes].map((all) => Math.min(...group.map((n) => all[n])));
    const km = 111.2 * Math.hypot(north - south, (east - west) * Math.cos((north * Math.PI) / 180)) / 2;
    if (km < 0.3 || this.view.scale >= this.closest * 0.2) this.on.near((north + south) / 2, (((east + west) / 2 + 540) % 360) - 180, Math.max(0.1, km * 1.05));
    else { this.fit(group); this.later(); }
  }

  picture(n) { return { row_id: this.points.ids[n], content_hash: this.points.contents[n] }; }

  extent() { return this.view.scale * 0.82 * Math.min(this.canvas.clientWidth, this.canvas.clientHeight); }

  zoom(factor, x, y) {
    if (!this.points) return;
    const [middleX, middleY] = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    const before = this.extent();
    this.view.scale = Math.max(0.5, Math.min(this.closest, this.view.scale * factor));
    const after = this.extent();
    this.view.x += (x - middleX) * (1 / before - 1 / after);
    this.view.y += (y - middleY) * (1 / before - 1 / after);
    this.later();
  }

  place(n) {
    const extent = this.extent();
    return [
      this.canvas.clientWidth / 2 + (this.points.x[n] - this.view.x) * extent,
      this.canvas.clientHeight / 2 + (this.points.y[n] - this.view.y) * extent,
    ];
  }

  /** The point nearest to a place of the canvas, or the one whose thumbnail is there; -1 for none. */
  near(x, y, reach = REACH) {
    if (!this.points) return -1;
    if (this.isEarth) { // thumbnails stand for those around them
      const found = this.drawn.map((n) => [n, ...this.place(n)]).map(([n, px, py]) => [n, Math.max(Math.abs(px - x), Math.abs(py - y))]);
      const [n, distance] = found.reduce((one, other) => (other[1] < one[1] ? other : one), [-1, Infinity]);
      return distance < Math.max(reach, SIDE / 2) ? n : -1;
    }
    let best = -1, least = reach;
    for (let n = 0; n < this.points.ids.length; n++) {
      const [px, py] = this.place(n);
      const distance = Math.hypot(px - x, py - y);
      if (distance < least) [best, least] = [n, distance];
    }
    if (best >= 0) return best;
    for (const n of this.drawn ?? []) {
      const [px, py] = this.place(n);
      if (Math.abs(px - x) < SIDE / 2 && Math.abs(py - y) < SIDE / 2) return n;
    }
    return -1;
  }

  point(x, y) {
    const at = this.near(x, y);
    if (at === this.hover) return;
    this.hover = at;
    this.card.hidden = at < 0;
    this.canvas.style.cursor = at < 0 ? "grab" : "pointer";
    if (at >= 0) {
      const [px, py] = this.place(at);
      const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
      this.card.src = thumbnail(this.picture(at), this.index, 256);
      this.card.style.left = `${px + (px > width - 320 ? -SIDE / 2 - 264 : SIDE / 2 + 8)}px`;
      this.card.style.top = `${Math.max(8, Math.min(py - 100, height - 264))}px`;
    }
    this.later();
  }

  later() { this.frame ||= requestAnimationFrame(() => { this.frame = 0; this.draw(); }); }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return;
    const ratio = devicePixelRatio;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!this.points) return;
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(`--cs-${name}`);
    if (this.isEarth) {
      const isTwice = this.points.longitudes.some((one) => one > 180);
      for (const turn of isTwice ? [0, 1] : [0]) this.land.draw(context, { ...this.view, x: this.view.x - turn }, this.extent(), width, height, colour);
    }
    context.fillStyle = colour("accent");
    context.globalAlpha = 0.55;
    const taken = new Map(); // "column row" of the screen: the picture whose thumbnail is there
    this.drawn = [];
    this.groups = new Map(); // of each thumbnail, the pictures that it stands for
    for (let n = 0; n < this.points.ids.length; n++) {
      const [x, y] = this.place(n);
      if (x < -SIDE || y < -SIDE || x > width + SIDE || y > height + SIDE) continue;
      context.fillRect(x - 1.5, y - 1.5, 3, 3);
      const other = inTheWay(taken, x, y);
      if (other) {
        if (this.isEarth) this.groups.get(other[2]).push(n);
      } else {
        taken.set(`${Math.round(x / CELL)} ${Math.round(y / CELL)}`, [x, y, n]);
        this.drawn.push(n);
        this.groups.set(n, [n]);
      }
    }
    context.globalAlpha = 1;
    for (const n of this.drawn) this.drawPicture(context, n);
    const said = [];
    if (this.isEarth) for (const n of this.drawn) this.drawGroup(context, n, colour, said);
    else this.drawLabels(context, width, height, colour, said);
    this.said = said;
    if (this.hover >= 0) {
      const [x, y] = this.place(this.hover);
      context.strokeStyle = style.getPropertyValue("--cs-text");
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, 6, 0, 7);
      context.stroke();
    }
  }

  /** How many pictures a thumbnail stands for, and the town that most of them are from. */
  drawGroup(context, n, colour, said) {
    const group = this.groups.get(n);
    const [x, y] = this.place(n);
    if (group.length > 1) {
      const text = number(group.length);
      context.font = "600 12px system-ui, sans-serif";
      const wide = Math.max(20, context.measureText(text).width + 12);
      context.fillStyle = colour("accent");
      context.beginPath();
      context.roundRect(x + SIDE / 2 - wide + 6, y - SIDE / 2 - 8, wide, 20, 10);
      context.fill();
      context.fillStyle = colour("on-accent");
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(text, x + SIDE / 2 - wide / 2 + 6, y - SIDE / 2 + 2.5);
    }
    const lines = this.groupName(group);
    lines.forEach((line, at) => write(context, line, x, y + SIDE / 2 + 11 + 15 * at, at ? 11.5 : 12.5, colour));
    if (lines.length) said.push(lines.join(": "));
  }

  /** What a group is called: its town, else its country, if most of it is there; and what the pictures of its town show. */
  groupName(group) {
    const { regions, within } = this.points;
    const [towns, countries] = [new Map(), new Map()];
    for (const n of group) {
      const region = regions[within[n]];
      if (!region) continue;
      towns.set(within[n], (towns.get(within[n]) ?? 0) + 1);
      countries.set(region.country, (countries.get(region.country) ?? 0) + 1);
    }
    if (!towns.size) return [];
    const most = (counts) => [...counts].reduce((one, other) => (other[1] > one[1] ? other : one));
    const [town, ofTown] = most(towns);
    const [country, ofCountry] = most(countries);
    const { latitudes, longitudes } = this.points;
    const wide = [latitudes, longitudes].some((all) => group.some((n) => Math.abs(all[n] - all[group[0]]) > METROPOLIS));
    if (ofTown * 2 > group.length) return [regions[town].name, regions[town].shows].filter(Boolean);
    if (!wide) return [regions[[...towns.keys()].reduce((one, other) => (regions[other].people > regions[one].people ? other : one))].name];
    return ofCountry * 2 > group.length && country ? [country] : [];
  }

  /** What the groups of a map of likeness show, in a word each. */
  drawLabels(context, width, height, colour, said) {
    const level = this.view.scale >= NEAR_SCALE ? 1 : 0;
    const boxes = [];
    context.font = PILL_FONT;
    for (const label of this.points.labels.filter((one) => one.level === level).sort((a, b) => b.pictures - a.pictures)) {
      const middle = width / 2 + (label.x - this.view.x) * this.extent();
      const y = height / 2 + (label.y - this.view.y) * this.extent();
      const half = [context.measureText(label.text).width / 2 + 16, 16];
      if (middle < 0 || y < 0 || middle > width || y > height) continue;
      const x = inside(middle, half[0], width);
      if (boxes.some((box) => Math.abs(box[0] - x) < box[2] + half[0] && Math.abs(box[1] - y) < 2 * half[1])) continue;
      boxes.push([x, y, half[0]]);
      pill(context, label.text, x, y, colour);
      said.push(label.text);
    }
  }

  drawPicture(context, n) {
    const id = this.points.ids[n];
    let image = this.pictures.get(id);
    if (!image) {
      image = new Image();
      image.onload = () => this.later();
      image.src = thumbnail(this.picture(n), this.index, 128);
      this.pictures.set(id, image);
      if (this.pictures.size > MOST_KEPT) this.pictures.delete(this.pictures.keys().next().value);
    }
    if (!image.complete || !image.naturalWidth) return;
    const [x, y] = this.place(n);
    const scale = SIDE / Math.max(image.naturalWidth, image.naturalHeight);
    const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
    context.drawImage(image, x - w / 2, y - h / 2, w, h);
  }
}

/** The longitude from which eastwards all are on the shortest way around the Earth; -180 where that is the usual map's. */
function westernmost(longitudes) {
  const sorted = Float64Array.from(longitudes).sort();
  let [from, widest] = [-180, sorted.length ? sorted[0] + 360 - sorted.at(-1) : 360];
  for (let n = 1; n < sorted.length; n++) {
    const gap = sorted[n] - sorted[n - 1];
    if (gap > widest + A_QUARTER) [from, widest] = [sorted[n], gap - A_QUARTER];
  }
  return from;
}

/** The thumbnail that one at x, y would cover. */
function inTheWay(taken, x, y) {
  const [column, row] = [Math.round(x / CELL), Math.round(y / CELL)];
  for (let i = -1; i <= 1; i++) {
    for (let j = -1; j <= 1; j++) {
      const other = taken.get(`${column + i} ${row + j}`);
      if (other && Math.abs(other[0] - x) < SIDE + 4 && Math.abs(other[1] - y) < SIDE + 4) return other;
    }
  }
  return null;
}

/** The middle of something as wide as twice `half`, at x or so near to it that the window cuts nothing off. */
const inside = (x, half, width) => (x < 0 || x > width ? x : Math.max(half, Math.min(width - half, x)));

/** Text that can be read over anything. */
function write(context, text, middle, y, size, colour) {
  context.font = `600 ${size}px system-ui, sans-serif`;
  const x = inside(middle, context.measureText(text).width / 2 + 6, context.canvas.clientWidth);
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  context.lineWidth = 4;
  context.strokeStyle = colour("page");
  context.fillStyle = colour("text");
  context.strokeText(text, x, y);
  context.fillText(text, x, y);
}

function pill(context, text, x, y, colour) {
  context.font = PILL_FONT;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const wide = context.measureText(text).width + 22;
  context.fillStyle = colour("card");
  context.strokeStyle = colour("line");
  context.lineWidth = 1;
  context.beginPath();
  context.roundRect(x - wide / 2, y - 14, wide, 28, 14);
  context.fill();
  context.stroke();
  context.fillStyle = colour("text");
  context.fillText(text, x, y + 1);
}
