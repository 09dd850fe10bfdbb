// What is indexed, what is being indexed, and what was left out and why.

import * as api from "./api.js";
import { button, counted, duration, make, number, percent, shown } from "./dom.js";

const OFTEN_MS = 2000; // while an index is being written
const SELDOM_MS = 15000;
const MOST_SKIPPED = 1000;

export class Status {
  /** `on.news(answer)` is told every new state. */
  constructor(root, on) {
    this.root = root;
    this.on = on;
    this.cards = make("div.cs-cards");
    this.list = make("div.cs-skipped");
    root.append(this.cards, this.list);
    this.latest = null;
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.poll(); });
  }

  async poll() {
    clearTimeout(this.timer);
    let wait = SELDOM_MS;
    try {
      this.latest = await api.status();
      this.problem = "";
      if (this.latest.indexes.some((index) => index.is_being_written)) wait = OFTEN_MS;
      this.on.news(this.latest);
    } catch (error) {
      this.problem = error.message;
    }
    if (!this.root.hidden) this.draw();
    if (!document.hidden) this.timer = setTimeout(() => this.poll(), wait);
  }

  show() {
    this.root.hidden = false;
    this.draw();
    this.poll();
  }

  draw() {
    const cards = (this.latest?.indexes ?? []).map((index) => this.card(index));
    if (this.problem) cards.unshift(make("p.cs-note", { role: "alert" }, this.problem));
    this.cards.replaceChildren(...cards);
  }

  card(index) {
    const facts = make("dl.cs-facts");
    const rows = [
      ["Folder", make("code", {}, shown(index.root))],
      ["Model", index.model],
      ["Last change", `${new Date(index.committed_at).toLocaleString()} (generation ${number(index.generation)})`],
    ];
    for (const [what, value] of rows) facts.append(make("dt", {}, what), make("dd", {}, value));
    return make("section.cs-index", { dataset: { name: index.name } },
      make("h2", {}, shown(index.name)),
      make("p.cs-big", {}, counted(index.pictures, "picture")),
      index.is_being_written
        ? this.run(index.progress)
        : make("p.cs-muted", {}, "No indexing run is in progress."),
      facts,
      index.skipped
        ? button("cs-button", null, "List the skipped files and the reasons", () => this.skipped(index.name), `${counted(index.skipped, "file")} skipped: show why`)
        : make("p.cs-muted", {}, "No files were skipped."),
    );
  }

  /** How far a run is; without a total, only that there is one. */
  run(progress) {
    const box = make("div.cs-progress", { role: "status" });
    if (!progress?.total) {
      box.append(make("span.cs-bar"), "Indexing…");
      return box;
    }
    const { done, total, seconds } = progress;
    const rate = done / Math.max(seconds, 0.001);
    const parts = [`Indexing: ${number(done)} of ${counted(total, "file")} (${percent(progress)})`];
    if (done && seconds > 1) parts.push(`${rate < 10 ? rate.toFixed(1) : number(Math.round(rate))} per second`);
    if (done && seconds > 1 && done < total) parts.push(`about ${duration((total - done) / rate)} left`);
    if (done === total) parts.push("saving");
    box.append(make("progress", { max: total, value: done, "aria-label": "Indexing" }), parts.join(", "));
    return box;
  }

  async skipped(name) {
    this.list.replaceChildren(make("p.cs-note", {}, "Looking…"));
    try {
      const answer = await api.skipped(name, MOST_SKIPPED);
      const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "File"), make("th", {}, "Reason"))));
      const body = make("tbody");
      for (const file of answer.skipped) {
        body.append(make("tr", {}, make("td", {}, shown(file.path)), make("td", {}, file.reason)));
      }
      table.append(body);
      const more = answer.total > answer.skipped.length ? ` The first ${number(answer.skipped.length)} of them:` : "";
      this.list.replaceChildren(make("h3", {}, `${counted(answer.total, "file")} of ${shown(answer.index)} skipped.${more}`), table);
      this.list.scrollIntoView({ block: "nearest", behavior: "smooth" });
    } catch (error) {
      this.list.replaceChildren(make("p.cs-note", { role: "alert" }, error.message));
    }
  }

  hide() { this.root.hidden = true; }
}
