// Where the tiles of a gallery are: squares, or rows of whole pictures under the months that they are from. Knows no
// element; what it says of tile n depends on the number of pictures and the width alone, so that nothing jumps.

const MOST_PIXELS = 15_000_000; // of height: browsers draw nothing below some
const SHORT = 0.7; // of the width: a month that fills less may share a line with others
const MONTH_PIXELS = 140; // that the name of a month takes
const BETWEEN = 28; // pixels between two months on a line
const WIDEST = 4, NARROWEST = 0.5; // of tiles: what is wider or narrower is cut, or it could not be hit

/** Tiles of one size. */
export class Squares {
  constructor(total) {
    this.all = total;
    this.headings = [];
    this.total = this.height = 0;
  }

  measure(width) {
    this.width = width;
    const least = width < 560 ? 104 : width < 1000 ? 150 : 184;
    this.gap = width < 560 ? 4 : 8;
    this.columns = Math.max(2, Math.floor((width + this.gap) / (least + this.gap)));
    this.side = (width - this.gap * (this.columns - 1)) / this.columns;
    this.row = this.side + this.gap;
    this.total = Math.min(this.all, Math.floor(MOST_PIXELS / this.row) * this.columns);
    this.height = Math.ceil(this.total / this.columns) * this.row;
  }

  box(n) {
    return { x: (n % this.columns) * this.row, y: Math.floor(n / this.columns) * this.row, width: this.side, height: this.side };
  }

  /** The tiles that are between two heights, and a few rows more: [first, after the last]. */
  range(top, bottom, beyond) {
    const first = Math.max(0, Math.floor(top / this.row) - beyond) * this.columns;
    const last = Math.max(0, Math.ceil(bottom / this.row) + beyond) * this.columns;
    return [Math.min(first, this.total), Math.min(this.total, last)];
  }

  /** The first tile of the first row that begins at a height or below it. */
  firstAt(y) { return Math.min(Math.max(0, this.total - 1), Math.max(0, Math.ceil(y / this.row)) * this.columns); }

  /** The tile above (-1) or below (1). */
  beside(n, way) {
    const to = n + way * this.columns;
    return to < 0 || to >= this.total ? n : to;
  }

  headingsIn() { return []; }
}

/** Pictures in rows that fill the width, each row of one height; months begin a new row, below their name. */
export class Rows {
  /** `months`: [["2023-05", count], …]; `shapes`: a byte a picture (see search/facets.shape_codes). */
  constructor(months, shapes) {
    this.shapes = shapes;
    this.months = months;
    this.headings = [];
    this.total = this.height = 0;
  }

  measure(width) {
    if (width === this.width) return;
    this.width = width;
    this.gap = width < 560 ? 3 : 6;
    this.goal = width < 560 ? 112 : width < 1000 ? 150 : 190;
    this.heading = width < 560 ? 38 : 46;
    this.starts = []; // of each row, or part of one: its first picture, and where it is
    this.lefts = [];
    this.tops = [];
    this.highs = [];
    this.headings = [];
    let y = 0, n = 0, used = 0; // pixels of the line at y that short months have taken
    const row = (left, top, high) => { this.starts.push(n); this.lefts.push(left); this.tops.push(top); this.highs.push(high); };
    const line = this.heading + this.goal + this.gap * 3;
    for (const [month, count] of this.months) {
      if (y > MOST_PIXELS) break;
      const end = n + count;
      const need = Math.max(MONTH_PIXELS, this.natural(n, end, width));
      if (need <= width * (used ? 1 : SHORT) - used) { // short months share a line
        this.headings.push({ x: used, y, month, n, count });
        row(used, y + this.heading, this.goal);
        used += need + BETWEEN;
        n = end;
        continue;
      }
      if (used) y += line;
      used = 0;
      if (need <= width * SHORT) {
        this.headings.push({ x: 0, y, month, n, count });
        row(0, y + this.heading, this.goal);
        used = need + BETWEEN;
        n = end;
        continue;
      }
      this.headings.push({ x: 0, y, month, n, count });
      y += this.heading;
      while (n < end) {
        let sum = 0, to = n;
        while (to < end) {
          sum += this.shape(to++);
          if (sum * this.goal + this.gap * (to - n - 1) >= width) break;
        }
        const full = (width - this.gap * (to - n - 1)) / sum;
        const high = to === end && full > this.goal * 1.25 ? this.goal : Math.max(this.goal * 0.55, full);
        row(0, y, high);
        y += high + this.gap;
        n = to;
      }
      y += this.gap * 2;
    }
    this.total = n;
    this.height = y + (used ? line : 0);
  }

  /** How wide some pictures are in one row; more than the width, if they are many. */
  natural(n, end, width) {
    let wide = 0;
    for (let at = n; at < end && wide <= width; at++) wide += this.shape(at) * this.goal + this.gap;
    return wide - this.gap;
  }

  shape(n) {
    const code = this.shapes[n];
    return code ? Math.min(WIDEST, Math.max(NARROWEST, 2 ** ((code - 1) / 254 * 4 - 2))) : 1;
  }

  rowOf(n) { return lastAtMost(this.starts, n); }

  box(n) {
    const row = this.rowOf(n);
    const [high, end] = [this.highs[row], this.starts[row + 1] ?? this.total];
    let x = this.lefts[row];
    for (let at = this.starts[row]; at < n; at++) x += this.shape(at) * high + this.gap;
    // the last of a row ends where the row does, also one that is wider than the window
    const wide = Math.min(this.shape(n) * high, this.width - x);
    return { x, y: this.tops[row], width: n === end - 1 && this.width - x - wide < 2 ? this.width - x : wide, height: high };
  }

  range(top, bottom, beyond) {
    if (!this.total) return [0, 0];
    let first = Math.max(0, lastAtMost(this.tops, top) - beyond);
    while (this.tops[first - 1] === this.tops[first]) first--;
    const last = Math.min(this.starts.length, lastAtMost(this.tops, bottom) + 1 + beyond);
    return [this.starts[first], this.starts[Math.max(0, last)] ?? this.total];
  }

  firstAt(y) {
    let row = lastAtMost(this.tops, y);
    if (this.tops[row] < y) row++;
    row = Math.min(row, this.starts.length - 1);
    while (this.tops[row - 1] === this.tops[row]) row--;
    return this.starts[row] ?? 0;
  }

  beside(n, way) {
    const { tops } = this;
    let row = this.rowOf(n);
    const here = this.box(n);
    while (tops[row] === here.y) row += way;
    if (row < 0 || row >= tops.length) return n;
    let first = row, last = row; // all parts of that line
    while (tops[first - 1] === tops[row]) first--;
    while (tops[last + 1] === tops[row]) last++;
    const middle = here.x + here.width / 2, end = this.starts[last + 1] ?? this.total;
    let best = this.starts[first], least = Infinity;
    for (let at = best; at < end; at++) {
      const { x, width } = this.box(at);
      const away = Math.max(0, x - middle, middle - x - width);
      if (away < least) [best, least] = [at, away];
    }
    return best;
  }

  headingsIn(top, bottom) {
    const tops = this.headings;
    const found = [];
    for (let at = this.monthAt(top); at < tops.length && tops[at].y < bottom; at++) found.push(at);
    return found;
  }

  /** Which month is at a height; the first of a line. */
  monthAt(y) {
    let at = Math.max(0, headingAt(this.headings, y));
    while (at && this.headings[at - 1].y === this.headings[at].y) at--;
    return at;
  }

  /** The month of the next line below (1) or above (-1). */
  monthBeside(at, way) {
    let to = at;
    while (this.headings[to + way] && this.headings[to].y === this.headings[at].y) to += way;
    return this.monthAt(this.headings[to].y);
  }
}

/** The place of the last number that is not greater than a value; 0 where there is none. */
function lastAtMost(numbers, value) {
  let low = 0, high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] <= value) low = middle + 1; else high = middle;
  }
  return Math.max(0, low - 1);
}

function headingAt(headings, y) {
  let low = 0, high = headings.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (headings[middle].y <= y) low = middle + 1; else high = middle;
  }
  return low - 1;
}

/** The layout of an answer: rows where the server told of months, else squares. */
export function layoutOf(total, timeline) {
  if (!timeline || !total) return new Squares(total);
  const text = atob(timeline.shapes);
  return new Rows(timeline.months, Uint8Array.from(text, (letter) => letter.charCodeAt(0)));
}
