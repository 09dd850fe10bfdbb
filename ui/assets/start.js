// First use: a folder that has no index yet, what indexing it would mean, and one button that does it.

import * as api from "./api.js";
import { button, make, shown } from "./dom.js";
import { bytes, duration, named, number, percent, t } from "./messages.js";

const OFTEN_MS = 700; // while something is being done
const AGAIN_MS = 5000; // where there is nothing to index yet, the folder is looked at again
const BUSY = ["looking", "indexing", "stopping"];

export class Start {
  /** `on.opened(name)`: there are pictures now; `on.known()`: the indexes that can be opened are known; `on.done()`. */
  constructor(on) {
    this.on = on;
    this.box = make("section.cs-index.cs-start", { hidden: true, "aria-label": t("start.label") });
    this.known = [];
    this.latest = null;
    this.others = this.naming();
    this.shows = "";
  }

  async load() {
    clearTimeout(this.timer);
    let busy = false;
    try {
      if (this.isStuck && !document.hidden) await api.lookAgain();
      const { set_up: latest, known } = await api.start();
      this.known = known;
      const before = this.latest;
      this.latest = latest;
      if (before && latest?.index && latest.index !== before.index) this.on.opened(latest.index);
      if (latest?.state === "done" && before?.state !== "done") this.on.done();
      busy = BUSY.includes(latest?.state);
    } catch { busy = this.latest !== null; }
    this.draw();
    if (busy || this.isStuck) this.timer = setTimeout(() => this.load(), busy ? OFTEN_MS : AGAIN_MS);
  }

  /** Whether there is nothing to index, until somebody puts pictures there or mends what is wrong. */
  get isStuck() {
    const told = this.latest;
    return Boolean(told) && !told.index && ["ready", "stopped"].includes(told.state) && !told.plan?.to_read;
  }

  /** A place to name another folder, where the server may use one. */
  naming() {
    const folder = make("input", { name: "folder", type: "text", required: true, maxLength: 4096, autocomplete: "off", spellcheck: false, "aria-label": t("start.folder") });
    folder.placeholder = t("start.folder");
    const form = make("form", {}, folder, make("button.cs-button", { type: "submit" }, t("start.use")));
    form.onsubmit = (event) => {
      event.preventDefault();
      this.pressed = true;
      this.others.open = false;
      this.ask(() => api.nameFolder(folder.value));
    };
    return make("details.cs-elsewhere", {}, make("summary", {}, t("start.other")), form);
  }

  /** Where the card is: in the place of the pictures while there are none. */
  place(parent) { if (this.box.parentElement !== parent) parent.prepend(this.box); }

  /** Whether a run was stopped, and can go on. */
  get isUnfinished() { return Boolean(this.latest?.index) && ["ready", "stopped"].includes(this.latest.state); }

  draw() {
    this.on.known();
    const told = this.latest && { ...this.latest };
    this.box.hidden = !told || told.state === "done";
    if (this.box.hidden) return;
    if (told.state !== "looking") this.pressed = false;
    else if (told.problem && !this.pressed) told.state = "ready"; // it is looked at again in the background
    const key = JSON.stringify(told);
    if (key === this.shows) return;
    this.shows = key;
    const focused = this.box.contains(document.activeElement) ? document.activeElement : null;
    const typed = focused?.name === "folder" ? focused : null;
    this.box.replaceChildren(
      make("h2", {}, t(told.index ? "start.partly" : "start.new")),
      make("code", {}, shown(told.folder)),
      ...(told.problem ? [make("p.cs-note", { role: "alert" }, told.error ? api.told(0, told.error) : told.problem)] : []),
      ...this.state(told),
      ...(told.others && !told.index && !["indexing", "stopping"].includes(told.state) ? [this.others] : []),
    );
    if (typed?.isConnected) typed.focus();
    else if (focused) this.box.querySelector("button")?.focus();
  }

  state({ state, plan, progress, problem, index }) {
    if (state === "looking") return [make("p", { role: "status" }, t("start.looking")), make("span.cs-bar")];
    if (state === "indexing" || state === "stopping") {
      return [this.run(state, progress), state === "indexing" ? button("cs-button", "pause", t("start.pause_title"), () => this.ask(api.stopIndexing), t("start.pause")) : null,
        make("p.cs-muted", {}, t("start.meanwhile"))].filter(Boolean);
    }
    const again = button("cs-button", null, t("start.look_again"), () => { this.pressed = true; this.ask(api.lookAgain); }, t("start.look_again"));
    if (!plan && problem) return [again, make("p.cs-muted", {}, t("start.again"))];
    const parts = plan ? this.plan(plan, index ? t("start.left", { n: plan.to_read }) : t("pictures", { n: plan.to_read })) : [];
    const text = state === "stopped" ? t("start.go_on") : plan ? t("start.index", { n: plan.to_read }) : t("start.index_it");
    if (plan && !plan.to_read) return [make("p", {}, t("start.none")), ...parts.slice(1), again];
    return [...parts, button("cs-button.cs-main", null, text, () => this.ask(api.startIndexing), text),
      make("p.cs-muted", {}, t("start.promise"))];
  }

  plan({ bytes_to_read: size, seconds, model, left_out: left }, title) {
    const reasons = Object.entries(left).map(([reason, n]) => `${named("left_out", reason)} (${number(n)})`).join(" · ");
    return [
      make("p.cs-big", {}, title),
      make("p", {}, [bytes(size), seconds ? t("start.takes", { time: duration(seconds) }) : "", t("start.model", { model })].filter(Boolean).join(" · ")),
      ...(reasons ? [make("p.cs-muted", {}, t("start.left_out", { reasons }))] : []),
    ];
  }

  run(state, progress) {
    const box = make("div.cs-progress", { role: "status" });
    if (state === "stopping") box.append(make("span.cs-bar"), t("start.saving"));
    else if (!progress?.total) box.append(make("span.cs-bar"), t("start.beginning"));
    else {
      const { done, total, seconds } = progress;
      const left = done && done < total && seconds > 2 ? ` · ${t("run.left", { time: duration(((total - done) * seconds) / done) })}` : "";
      box.append(make("progress", { max: total, value: done, "aria-label": t("run.indexing") }), `${t("run.of", { done, n: total, percent: percent(progress) })}${left}`);
    }
    return box;
  }

  async ask(act) {
    try {
      this.latest = await act();
    } catch (error) {
      this.latest = { ...this.latest, problem: error.message, error: null };
    }
    this.draw();
    this.load();
  }
}
