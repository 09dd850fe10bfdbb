// The Earth in Mercator's projection: coasts (Natural Earth, in vendor/land.svg) and a net of degrees.

const FARTHEST_NORTH = 85;
const STEPS = [30, 10, 5, 1, 0.5, 0.1]; // degrees between the lines of the net
const LEAST_BETWEEN = 90; // pixels between two of them

/** Where a latitude is, 0 in the north to 1 in the south. */
export function mercator(latitude) {
  const north = (Math.max(-FARTHEST_NORTH, Math.min(FARTHEST_NORTH, latitude)) * Math.PI) / 180;
  return 0.5 - Math.log(Math.tan(Math.PI / 4 + north / 2)) / (2 * Math.PI);
}

export class Land {
  /** `ready` is called when the coasts can be drawn. */
  constructor(ready) {
    this.ready = ready;
    this.path = null;
  }

  async load() {
    if (this.loading) return;
    this.loading = true;
    try {
      const text = await (await fetch(new URL("vendor/land.svg", import.meta.url))).text();
      const drawn = new DOMParser().parseFromString(text, "image/svg+xml").querySelector("path").getAttribute("d");
      this.path = projected(drawn);
      this.ready();
    } catch { this.loading = false; /* a map without coasts has its net */ }
  }

  draw(context, view, extent, width, height, colour) {
    this.load();
    const [left, top] = [width / 2 - view.x * extent, height / 2 - view.y * extent];
    if (this.path) {
      context.save();
      context.translate(left, top);
      context.scale(extent, extent);
      context.fillStyle = colour("tile");
      context.fill(this.path);
      context.lineWidth = 1 / extent;
      context.strokeStyle = colour("unlikely");
      context.globalAlpha = 0.5;
      context.stroke(this.path);
      context.restore();
    }
    const step = STEPS.findLast((one) => (one / 360) * extent >= LEAST_BETWEEN) ?? STEPS[0];
    context.strokeStyle = colour("line");
    context.lineWidth = 1;
    context.beginPath();
    const [west, east] = [Math.max(0, -left / extent), Math.min(1, (width - left) / extent)].map((x) => (x - 0.5) * 360);
    for (let at = Math.ceil(west / step) * step; at <= east; at += step) {
      const x = left + (at / 360 + 0.5) * extent;
      context.moveTo(x, Math.max(0, top));
      context.lineTo(x, Math.min(height, top + extent));
    }
    for (let at = -Math.floor(FARTHEST_NORTH / step) * step; at <= FARTHEST_NORTH; at += step) {
      const y = top + mercator(at) * extent;
      if (y < 0 || y > height) continue;
      context.moveTo(Math.max(0, left), y);
      context.lineTo(Math.min(width, left + extent), y);
    }
    context.stroke();
  }
}

/** A path of SVG in tenths of degrees (M, then l steps, then z) as one of the unit square. */
function projected(drawn) {
  const path = new Path2D();
  for (const ring of drawn.split("M").slice(1)) {
    const numbers = ring.match(/-?\d+/g).map(Number);
    let [x, y] = numbers;
    path.moveTo(x / 3600 + 0.5, mercator(-y / 10));
    for (let at = 2; at < numbers.length; at += 2) {
      x += numbers[at];
      y += numbers[at + 1];
      path.lineTo(x / 3600 + 0.5, mercator(-y / 10));
    }
    path.closePath();
  }
  return path;
}
