// What is indexed, what is being indexed, and what was left out and why.

import * as api from "./api.js";
import { button, make, shown } from "./dom.js";
import { languageChoice } from "./help.js";
import { duration, locale, moment, percent, skipReason, t } from "./messages.js";

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
    root.append(this.cards, this.list, languageChoice()); // phones have no help
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
      [t("fact.folder"), make("code", {}, shown(index.root))],
      [t("status.model"), index.model],
      [t("status.changed"), t("status.changed_at", { moment: moment(new Date(index.committed_at)), generation: index.generation })],
    ];
    for (const [what, value] of rows) facts.append(make("dt", {}, what), make("dd", {}, value));
    return make("section.cs-index", { dataset: { name: index.name } },
      make("h2", {}, shown(index.name)),
      make("p.cs-big", {}, t("pictures", { n: index.pictures })),
      index.is_being_written
        ? this.run(index.progress)
        : make("p.cs-muted", {}, t("status.idle")),
      facts,
      index.skipped
        ? button("cs-button", null, t("status.list_skipped"), () => this.skipped(index.name), t("status.skipped", { n: index.skipped }))
        : make("p.cs-muted", {}, t("status.none_skipped")),
    );
  }

  /** How far a run is; without a total, only that there is one. */
  run(progress) {
    const box = make("div.cs-progress", { role: "status" });
    if (!progress?.total) {
      box.append(make("span.cs-bar"), t("run.indexing"));
      return box;
    }
    const { done, total, seconds } = progress;
    const rate = done / Math.max(seconds, 0.001);
    const parts = [t("run.indexing_of", { done, n: total, percent: percent(progress) })];
    if (done && seconds > 1) parts.push(t("run.rate", { rate: rate.toLocaleString(locale, { minimumFractionDigits: rate < 10 ? 1 : 0, maximumFractionDigits: rate < 10 ? 1 : 0 }) }));
    if (done && seconds > 1 && done < total) parts.push(t("run.left", { time: duration((total - done) / rate) }));
    if (done === total) parts.push(t("run.saving"));
    box.append(make("progress", { max: total, value: done, "aria-label": t("run.indexing") }), parts.join(" · "));
    return box;
  }

  async skipped(name) {
    this.list.replaceChildren(make("p.cs-note", {}, t("status.looking")));
    try {
      const answer = await api.skipped(name, MOST_SKIPPED);
      const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, t("status.file")), make("th", {}, t("status.reason")))));
      const body = make("tbody");
      for (const file of answer.skipped) {
        body.append(make("tr", {}, make("td", {}, shown(file.path)), make("td", { title: file.reason }, skipReason(file))));
      }
      table.append(body);
      const more = answer.total > answer.skipped.length ? ` ${t("status.first", { n: answer.skipped.length })}` : "";
      this.list.replaceChildren(make("h3", {}, `${t("status.skipped_of", { n: answer.total, index: shown(answer.index) })}${more}`), table);
      this.list.scrollIntoView({ block: "nearest", behavior: "smooth" });
    } catch (error) {
      this.list.replaceChildren(make("p.cs-note", { role: "alert" }, error.message));
    }
  }

  hide() { this.root.hidden = true; }
}
