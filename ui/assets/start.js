// First use: a folder that has no index yet, what indexing it would mean, and one button that does it.

import * as api from "./api.js";
import { button, bytes, counted, duration, make, number, percent, shown } from "./dom.js";

const OFTEN_MS = 700; // while something is being done
const BUSY = ["looking", "indexing", "stopping"];

export class Start {
  /** `on.opened(name)`: there are pictures now; `on.known()`: the indexes that can be opened are known; `on.done()`. */
  constructor(on) {
    this.on = on;
    this.box = make("section.cs-index.cs-start", { hidden: true, "aria-label": "First use" });
    this.known = [];
    this.latest = null;
    this.shows = "";
  }

  async load() {
    clearTimeout(this.timer);
    let busy = false;
    try {
      const { set_up: latest, known } = await api.start();
      this.known = known;
      const before = this.latest;
      this.latest = latest;
      if (before && latest?.index && latest.index !== before.index) this.on.opened(latest.index);
      if (latest?.state === "done" && before?.state !== "done") this.on.done();
      busy = BUSY.includes(latest?.state);
    } catch { busy = this.latest !== null; }
    this.draw();
    if (busy) this.timer = setTimeout(() => this.load(), OFTEN_MS);
  }

  /** Where the card is: in the place of the pictures while there are none. */
  place(parent) { if (this.box.parentElement !== parent) parent.prepend(this.box); }

  /** Whether a run was stopped, and can go on. */
  get isUnfinished() { return Boolean(this.latest?.index) && ["ready", "stopped"].includes(this.latest.state); }

  draw() {
    this.on.known();
    const told = this.latest;
    this.box.hidden = !told || told.state === "done";
    if (this.box.hidden) return;
    const key = JSON.stringify(told);
    if (key === this.shows) return;
    this.shows = key;
    const held = this.box.contains(document.activeElement);
    this.box.replaceChildren(
      make("h2", {}, told.index ? "Not all of this folder is indexed" : "This folder is not indexed yet"),
      make("code", {}, shown(told.folder)),
      ...(told.problem ? [make("p.cs-note", { role: "alert" }, told.problem)] : []),
      ...this.state(told),
    );
    if (held) this.box.querySelector("button")?.focus();
  }

  state({ state, plan, progress, problem }) {
    if (state === "looking") return [make("p", { role: "status" }, "Looking at what is there…"), make("span.cs-bar")];
    if (state === "indexing" || state === "stopping") {
      return [this.run(state, progress), state === "indexing" ? button("cs-button", "pause", "Stop here, and go on later", () => this.ask(api.stopIndexing), "Pause") : null,
        make("p.cs-muted", {}, "Search as soon as pictures appear. What is done is kept if you pause, or close clipsearch.")].filter(Boolean);
    }
    if (!plan && problem) return [make("p.cs-muted", {}, "Start clipsearch again when this is settled.")];
    const parts = plan ? this.plan(plan) : [];
    const text = state === "stopped" ? "Go on" : `Index ${plan ? counted(plan.to_read, "picture") : "it"}`;
    if (plan && !plan.to_read) return [make("p", {}, "It has no pictures that clipsearch reads."), ...parts.slice(1)];
    return [...parts, button("cs-button.cs-main", null, text, () => this.ask(api.startIndexing), text),
      make("p.cs-muted", {}, "The index is made in the folder, in .clipsearch. Your pictures are not changed, and nothing leaves this computer.")];
  }

  plan({ to_read: count, bytes_to_read: size, seconds, model, left_out: leftOut }) {
    const reasons = Object.entries(leftOut).map(([reason, n]) => `${reason} (${number(n)})`).join(", ");
    return [
      make("p.cs-big", {}, counted(count, "picture")),
      make("p", {}, [bytes(size), seconds ? `about ${duration(seconds)} on this computer` : "", `model ${model}`].filter(Boolean).join(" · ")),
      ...(reasons ? [make("p.cs-muted", {}, `Left out: ${reasons}`)] : []),
    ];
  }

  run(state, progress) {
    const box = make("div.cs-progress", { role: "status" });
    if (state === "stopping") box.append(make("span.cs-bar"), "Saving what is done…");
    else if (!progress?.total) box.append(make("span.cs-bar"), "Beginning…");
    else {
      const { done, total, seconds } = progress;
      const left = done && done < total && seconds > 2 ? `, about ${duration(((total - done) * seconds) / done)} left` : "";
      box.append(make("progress", { max: total, value: done, "aria-label": "Indexing" }), `${number(done)} of ${counted(total, "file")} (${percent(progress)})${left}`);
    }
    return box;
  }

  async ask(act) {
    try {
      this.latest = await act();
    } catch (error) {
      this.latest = { ...this.latest, problem: error.message };
    }
    this.draw();
    this.load();
  }
}
