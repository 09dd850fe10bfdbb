// The map: pictures that look alike lie near each other. A canvas; thumbnails where there is room, and under the pointer.

import { thumbnail } from "./api.js";
import { counted, make } from "./dom.js";

const CELL = 84; // pixels of the screen that one thumbnail has to itself
const SIDE = 72;
const MOST_KEPT = 600;
const REACH = 14;

export class PictureMap {
  /** `on` has open({row_id, content_hash}). `ask(index, signal)` returns {ids, contents, x, y, total}, positions 0..1. */
  constructor(root, ask, on) {
    this.root = root;
    this.ask = ask;
    this.on = on;
    this.canvas = make("canvas", { tabIndex: 0, role: "img" });
    this.canvas.setAttribute("aria-label", "Map of the pictures: similar pictures lie near each other");
    this.note = make("p.cs-note", { role: "status" });
    this.card = make("img.cs-card", { alt: "", hidden: true });
    root.append(this.canvas, this.card, this.note);
    this.pictures = new Map();
    this.hover = -1;
    this.fingers = new Map();
    new ResizeObserver(() => this.later()).observe(root);
    this.listen();
  }

  async show(index) {
    if (this.index === index && this.points) { this.later(); return; }
    this.index = index;
    this.points = null;
    this.pictures.clear();
    this.note.textContent = "Drawing the map…";
    this.later();
    try {
      const points = await this.ask(index);
      if (index !== this.index) return;
      this.points = points;
      this.view = { scale: 1, x: 0.5, y: 0.5 };
      const part = points.ids.length < points.total ? `${counted(points.ids.length, "picture")} of ${points.total.toLocaleString("en")}` : counted(points.total, "picture");
      this.note.textContent = `${part}. Similar pictures lie near each other. Drag to move, scroll or pinch to zoom, click to open.`;
    } catch (error) {
      this.note.textContent = error.message;
    }
    this.later();
  }

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
        if (kind === "pointerup" && !this.moved) {
          const at = this.near(event.offsetX, event.offsetY);
          if (at >= 0) this.on.open(this.picture(at));
        }
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
      else if (event.key === "0") this.view = { scale: 1, x: 0.5, y: 0.5 };
      else return;
      event.preventDefault();
      event.stopPropagation();
      this.later();
    });
  }

  picture(n) { return { row_id: this.points.ids[n], content_hash: this.points.contents[n] }; }

  extent() { return this.view.scale * 0.82 * Math.min(this.canvas.clientWidth, this.canvas.clientHeight); }

  zoom(factor, x, y) {
    if (!this.points) return;
    const [middleX, middleY] = [this.canvas.clientWidth / 2, this.canvas.clientHeight / 2];
    const before = this.extent();
    this.view.scale = Math.max(0.5, Math.min(400, this.view.scale * factor));
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
  near(x, y) {
    if (!this.points) return -1;
    let best = -1, least = REACH;
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
      this.card.style.left = `${px + (px > width - 280 ? -272 : 16)}px`;
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
    context.fillStyle = style.getPropertyValue("--cs-accent");
    context.globalAlpha = 0.55;
    const taken = new Map(); // "column row" of the screen: where a thumbnail is
    this.drawn = [];
    for (let n = 0; n < this.points.ids.length; n++) {
      const [x, y] = this.place(n);
      if (x < -SIDE || y < -SIDE || x > width + SIDE || y > height + SIDE) continue;
      context.fillRect(x - 1.5, y - 1.5, 3, 3);
      if (isFree(taken, x, y)) {
        taken.set(`${Math.round(x / CELL)} ${Math.round(y / CELL)}`, [x, y]);
        this.drawn.push(n);
      }
    }
    context.globalAlpha = 1;
    for (const n of this.drawn) this.drawPicture(context, n);
    if (this.hover >= 0) {
      const [x, y] = this.place(this.hover);
      context.strokeStyle = style.getPropertyValue("--cs-text");
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, 6, 0, 7);
      context.stroke();
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

/** Whether a thumbnail at x, y would cover none that is there. */
function isFree(taken, x, y) {
  const [column, row] = [Math.round(x / CELL), Math.round(y / CELL)];
  for (let i = -1; i <= 1; i++) {
    for (let j = -1; j <= 1; j++) {
      const other = taken.get(`${column + i} ${row + j}`);
      if (other && Math.abs(other[0] - x) < SIDE + 4 && Math.abs(other[1] - y) < SIDE + 4) return false;
    }
  }
  return true;
}
