// The page: puts its parts together and keeps them in step with the address.

import * as api from "./api.js";
import { Detail } from "./detail.js";
import { button, counted, icon, make, number, percent, shown } from "./dom.js";
import { moveInto } from "./frame.js";
import { Gallery } from "./gallery.js";
import { PictureMap } from "./map.js";
import { filtersOf, withFilter } from "./query.js";
import { EMPTY, fromAddress, toAddress } from "./state.js";
import { Status } from "./status.js";
import * as tables from "./tables.js";

const THEMES = ["auto", "light", "dark"];
const PICTURE_SIDE = 1024; // a picture that is sent is made this small first
const root = document.getElementById("clipsearch");

let state = fromAddress(location.search);
let sent = null; // a picture that was dropped: {vector, url}
let running = null;
let answered = null; // what the gallery shows the answer of
let indexes = [];

// ---- the parts

const input = make("input.cs-query", {
  type: "search", name: "q", placeholder: "Search your pictures", autocomplete: "off", spellcheck: false,
  enterKeyHint: "search", "aria-label": "Search",
});
const file = make("input", { type: "file", accept: tables.accepted, hidden: true, onchange: () => file.files[0] && send(file.files[0]) });
const chip = make("span.cs-chip", { hidden: true });
const form = make("form.cs-search", { role: "search" }, icon("search"), chip, input,
  button("cs-plain.cs-send", "picture", "Search with a picture (or drop or paste one)", () => file.click()), file);
const filterButton = button("cs-plain.cs-filter", "filter", "Filters", () => toggleFilters());
filterButton.setAttribute("aria-expanded", "false");
const tabs = make("nav.cs-tabs", { role: "tablist" }, ...["search", "map", "status"].map((view) =>
  make("button.cs-tab", { type: "button", role: "tab", dataset: { view }, onclick: () => go({ view, id: null }) },
    view[0].toUpperCase() + view.slice(1))));
const theme = button("cs-plain.cs-theme", "sun", "Theme", () => setTheme(THEMES[(THEMES.indexOf(currentTheme()) + 1) % THEMES.length]));
const which = make("select.cs-which", { hidden: true, "aria-label": "Index", onchange: () => go({ index: which.value, up: [], down: [], id: null }) });
const header = make("header.cs-header", {}, make("a.cs-mark", { href: api.root, onclick: home }, "clipsearch"), form, filterButton, which, tabs, theme);

const filters = make("section.cs-filters", { hidden: true, "aria-label": "Filters" });
const sort = make("select", { "aria-label": "Order", onchange: () => go({ sort: sort.value }) },
  make("option", { value: "score" }, "Best first"), make("option", { value: "date" }, "Newest first"), make("option", { value: "path" }, "By folder and name"));
const unique = toggle("Group near-duplicates", "unique");
const diverse = toggle("Varied", "diverse", "Prefer pictures that differ from each other");
const all = toggle("Unlikely matches", "all", "Also show unlikely matches");
all.label.hidden = true;
const summary = make("p.cs-summary", { role: "status", "aria-live": "polite" });
const feedback = make("p.cs-feedback", { hidden: true });
const bar = make("div.cs-bar-row", {}, summary, feedback, make("span.cs-space"), all.label, diverse.label, unique.label, sort);
const told = make("p.cs-told", { hidden: true, role: "status" });
const problem = make("div.cs-problem", { role: "alert", hidden: true });
const grid = make("div.cs-grid", { role: "listbox", "aria-label": "Pictures", "aria-multiselectable": "true" });
const nothing = make("div.cs-nothing", { hidden: true });
const rest = make("p.cs-rest", { hidden: true });
const results = make("main.cs-results", {}, bar, told, problem, nothing, grid, rest);
const mapView = make("main.cs-map", { hidden: true });
const statusView = make("main.cs-status", { hidden: true });
const panel = make("aside.cs-detail", { hidden: true, "aria-label": "Picture" });
const selection = make("div.cs-selection", { hidden: true, role: "region", "aria-label": "Selected pictures" });
const progress = make("button.cs-pill", { type: "button", hidden: true, onclick: () => go({ view: "status", id: null }) });
const toast = make("div.cs-toast", { role: "status", hidden: true });
const drop = make("div.cs-drop", { hidden: true }, make("p", {}, "Drop a picture to find others like it"));
root.replaceChildren(header, filters, results, mapView, statusView, panel, selection, progress, toast, drop);

const gallery = new Gallery(grid, (offset, k, signal) => api.search({ ...question(), offset, k }, signal), {
  open: (n) => openAt(n), select: drawSelection, rate, similar,
});
const detail = new Detail(panel, {
  close: closeDetail, step: (by) => openAt(gallery.active + by), rate, similar, copy,
  rating: (hit) => gallery.ratings.get(hit.row_id) ?? 0,
  isSelected: (hit) => gallery.selected.has(hit.row_id),
  select: (hit) => { gallery.toggleHit(hit); detail.show(hit, detail.index); },
  open: (hit) => showDetail(hit, true),
  without: (hit) => go({ q: `${state.q} - like:${hit.row_id}`.trim(), id: null }),
  near: (place) => go({ q: withFilter(state.q, "near", `${place},5km`), id: null }),
  folder: (folder) => go({ q: withFilter(state.q, "folder", `${folder}/**`), id: null }),
});
const map = new PictureMap(mapView, api.map, { open: (id) => go({ id }) });
const status = new Status(statusView, { news });

// ---- what is asked

function question() {
  const asked = { query: state.q, sort: state.sort, unique: state.unique, diverse: state.diverse, all: state.all };
  if (state.index) asked.index = state.index;
  if (state.up.length) asked.like = state.up;
  if (state.down.length) asked.unlike = state.down;
  if (sent) asked.vector = sent.vector;
  return asked;
}

/** What the answer depends on: the same key, the same gallery. */
const key = () => JSON.stringify([question(), sent?.number ?? 0]);

function go(changes, { replace = false } = {}) {
  if ("q" in changes && changes.q !== state.q) changes = { up: [], down: [], view: "search", ...changes };
  state = { ...state, ...changes };
  history[replace ? "replaceState" : "pushState"](null, "", toAddress(state));
  draw();
}

function draw() {
  input.value = state.q;
  sort.value = state.sort;
  for (const [name, box] of Object.entries({ unique, diverse, all })) box.input.checked = state[name];
  for (const tab of tabs.children) tab.setAttribute("aria-selected", String(tab.dataset.view === state.view));
  document.title = state.q ? `${state.q} – clipsearch` : "clipsearch";
  results.hidden = state.view !== "search";
  mapView.hidden = state.view !== "map";
  root.dataset.view = state.view;
  if (state.view === "status") status.show(); else status.hide();
  if (state.view === "map") map.show(state.index || indexes[0]?.name || "");
  if (state.view === "search") ask();
  drawFilters();
  drawFeedback();
  drawDetail();
}

async function ask() {
  const asked = key();
  if (answered?.key === asked || running?.key === asked) return;
  running?.controller.abort();
  const controller = new AbortController();
  running = { key: asked, controller };
  root.classList.add("cs-busy");
  const began = performance.now();
  try {
    const answer = await api.search({ ...question(), offset: 0, k: Gallery.first }, controller.signal);
    if (controller.signal.aborted) return;
    answered = { key: asked, ...answer };
    problem.hidden = true;
    if (gallery.index !== answer.index) gallery.selected.clear();
    gallery.ratings = new Map([...state.up.map((id) => [id, 1]), ...state.down.map((id) => [id, -1])]);
    gallery.show(answer.index, answer.total, answer.hits);
    scrollTo(0, 0);
    drawSummary(performance.now() - began);
    drawSelection();
  } catch (error) {
    if (error.name === "AbortError") return;
    answered = null;
    gallery.show(gallery.index, 0, []);
    summary.textContent = "";
    nothing.hidden = rest.hidden = told.hidden = true;
    drawProblem(error);
  } finally {
    if (running?.controller === controller) {
      running = null;
      root.classList.remove("cs-busy");
    }
  }
}

function drawSummary(took) {
  const { total, hidden, hits } = answered;
  const asksFor = state.q || sent;
  summary.textContent = `${counted(total, asksFor ? "result" : "picture")} · ${Math.round(took)} ms`;
  summary.dataset.ms = Math.round(took);
  told.textContent = answered.notices.join(" · ");
  told.hidden = !answered.notices.length;
  nothing.hidden = total > 0;
  if (!total) {
    const index = indexes.find((one) => one.name === answered.index);
    const empty = index && !index.pictures;
    nothing.replaceChildren(
      make("h2", {}, empty ? "No pictures here yet" : "Nothing found"),
      make("p", {}, empty ? "Index a folder: clipsearch index ./photos" : hidden ? "No picture is a likely match." : "No picture matches. Try other words or fewer filters."),
      hidden ? button("cs-button", null, "Show unlikely matches", () => go({ all: true }), "Show unlikely matches") : "",
    );
  }
  rest.hidden = !total || !hidden;
  rest.replaceChildren(
    `${counted(hidden, "picture")} unlikely to match ${hidden === 1 ? "is" : "are"} not shown. `,
    button("cs-button", null, "Show unlikely matches", () => go({ all: true }), "Show unlikely matches"),
  );
  all.label.hidden = !state.all && !hidden && !hits.some((hit) => hit.band);
}

function drawProblem(error) {
  problem.hidden = false;
  // the query and the mark below it are shown better than in the message
  const lines = error.message.split("\n").filter((line) => line.trim() !== state.q.trim() && !/^\s*\^+\s*$/.test(line));
  const parts = [make("p", {}, lines.join("\n"))];
  if (Number.isInteger(error.position)) {
    const marked = make("pre");
    marked.append(state.q.slice(0, error.position), make("mark", {}, state.q.slice(error.position, error.position + 1) || " "), state.q.slice(error.position + 1));
    parts.unshift(marked);
  }
  problem.replaceChildren(...parts);
}

// ---- a picture as the question

async function send(picture) {
  root.classList.add("cs-busy");
  try {
    const vector = await api.embed(await smaller(picture), state.index);
    if (sent) URL.revokeObjectURL(sent.url);
    sent = { vector, url: URL.createObjectURL(picture), number: (sent?.number ?? 0) + 1 };
    chip.replaceChildren(make("img", { alt: "Your picture", src: sent.url }),
      button("cs-plain", "close", "Search without this picture", () => { forget(); go({}); }));
    chip.hidden = false;
    problem.hidden = true;
    go({ q: "", up: [], down: [], view: "search", id: null, all: state.all });
  } catch (error) {
    drawProblem(error);
    root.classList.remove("cs-busy");
  } finally {
    file.value = "";
  }
}

function forget() {
  if (sent) URL.revokeObjectURL(sent.url);
  sent = null;
  chip.hidden = true;
  chip.replaceChildren();
}

/** A large picture, scaled down before it is sent where the browser can read it; else as it is. */
async function smaller(picture) {
  if (picture.size < 1_000_000) return picture;
  try {
    const bitmap = await createImageBitmap(picture);
    const scale = Math.min(1, PICTURE_SIDE / Math.min(bitmap.width, bitmap.height));
    const canvas = make("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    return await new Promise((done) => canvas.toBlob((blob) => done(blob ?? picture), "image/jpeg", 0.92));
  } catch {
    return picture;
  }
}

const pictureIn = (transfer) => [...(transfer?.files ?? [])].find(tables.isPicture);
const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  drop.hidden = false;
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.hidden = true; });
addEventListener("drop", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  drop.hidden = true;
  const picture = pictureIn(event.dataTransfer);
  if (picture) send(picture); else say("clipsearch cannot read this file as a picture.");
});
addEventListener("paste", (event) => {
  const picture = pictureIn(event.clipboardData);
  if (picture) { event.preventDefault(); send(picture); }
});

// ---- filters

const controls = new Map();
const tags = make("datalist", { id: "cs-tags" });
filters.append(tags);
for (const { name, kind, label, type, placeholder, options } of tables.filters) {
  const control = options.length
    ? make("select", {}, make("option", { value: "" }, "any"), ...options.map(([value, text]) => make("option", { value }, text)))
    : make("input", { type, placeholder, autocomplete: "off", spellcheck: false, ...(kind === "tag" ? { list: "cs-tags" } : {}) });
  control.name = name;
  control.onchange = () => go({ q: withFilter(input.value, name, control.value.trim()), id: null });
  controls.set(name, control);
  filters.append(make("label", {}, make("span", {}, label), control));
}
filters.append(button("cs-button", null, "Remove all filters from the query", () => {
  go({ q: tables.filters.reduce((q, { name }) => withFilter(q, name, ""), input.value), id: null });
}, "Clear filters"));

function drawFilters() {
  const given = filtersOf(state.q);
  for (const [field, control] of controls) {
    const value = given[field] ?? "";
    if (control.tagName === "SELECT" && value && ![...control.options].some((option) => option.value === value)) {
      control.append(make("option", { value }, value));
    }
    control.type === "date" && value && !/^\d{4}-\d\d-\d\d$/.test(value) ? (control.type = "text") : null;
    control.value = value;
  }
  const count = Object.keys(given).length;
  filterButton.dataset.count = count || "";
}

function toggleFilters(open = filters.hidden) {
  filters.hidden = !open;
  filterButton.setAttribute("aria-expanded", String(open));
  gallery.later();
}

function toggle(text, name, title) {
  const box = make("input", { type: "checkbox", onchange: () => go({ [name]: box.checked }) });
  return { input: box, label: make("label.cs-toggle", { title: title ?? text }, box, text) };
}

// ---- one picture

function openAt(n) {
  if (n < 0 || n >= gallery.total) return;
  gallery.activate(n, !detail.isOpen);
  const hit = gallery.item(n);
  if (hit) showDetail(hit, !detail.isOpen);
  else setTimeout(() => { if (gallery.active === n) openAt(n); }, 80);
}

function showDetail(hit, push) {
  detail.show(hit, answered?.index ?? gallery.index);
  if (push) panel.querySelector("header button").focus();
  go({ id: hit.row_id }, { replace: !push });
}

async function drawDetail() {
  if (state.id === null) {
    if (detail.isOpen) detail.close();
    return;
  }
  if (detail.hit?.row_id === state.id) return;
  const id = state.id;
  try {
    const found = await api.picture(id, state.index);
    if (state.id === id && detail.hit?.row_id !== id) detail.show(found, state.index || indexes[0]?.name || answered?.index || "");
  } catch (error) {
    say(error.message);
    if (state.id === id) go({ id: null }, { replace: true });
  }
}

function closeDetail() {
  detail.close();
  go({ id: null });
  if (gallery.active >= 0) gallery.activate(gallery.active);
}

function similar(hit) {
  forget();
  go({ q: `like:${hit.row_id}`, id: null, up: [], down: [] });
}

// ---- thumbs

function rate(hit, way) {
  const before = gallery.ratings.get(hit.row_id) ?? 0;
  const [up, down] = [state.up, state.down].map((ids) => ids.filter((id) => id !== hit.row_id));
  if (before !== way) (way > 0 ? up : down).push(hit.row_id);
  go({ up, down }, { replace: true });
  if (detail.isOpen && detail.hit.row_id === hit.row_id) {
    gallery.ratings.set(hit.row_id, before === way ? 0 : way);
    detail.show(hit, answered?.index ?? gallery.index);
  }
}

function drawFeedback() {
  const count = state.up.length + state.down.length;
  feedback.hidden = !count;
  if (count) {
    feedback.replaceChildren(icon("up"), ` ${state.up.length} `, icon("down"), ` ${state.down.length} `,
      state.up.length ? button("cs-link", null, "Save what these have in common as a tag", keepConcept, "save as tag") : "",
      " ", button("cs-link", null, "Clear thumbs up and down", () => go({ up: [], down: [] }), "reset"));
  }
}

/** Ask for a name, and keep what the thumbs say under it. */
function keepConcept() {
  const name = make("input.cs-name-it", { type: "text", placeholder: "my-dog", "aria-label": "Name of the tag", autocomplete: "off" });
  const asking = make("form", {}, name, make("button.cs-button", { type: "submit" }, "Keep"));
  asking.onsubmit = async (event) => {
    event.preventDefault();
    if (!name.value.trim()) return;
    try {
      const kept = await api.keepConcept(gallery.index, name.value.trim(), state.up, state.down);
      say(`Saved. Search for it with tag:${kept.name}`);
      status.poll();
      go({ q: `tag:${/\s/.test(kept.name) ? `"${kept.name}"` : kept.name}`, id: null });
    } catch (error) {
      say(error.message);
    }
  };
  feedback.replaceChildren(asking);
  name.focus();
}

// ---- the selection

function drawSelection() {
  const count = gallery.selected.size;
  selection.hidden = !count;
  root.classList.toggle("cs-selecting", count > 0);
  if (!count) return;
  const ids = [...gallery.selected.keys()];
  selection.replaceChildren(
    make("strong", {}, `${number(count)} selected`),
    button("cs-button", "copy", "Copy the paths, one per line", () => copy([...gallery.selected.values()].map((hit) => shown(hit.path)).join("\n")), "Copy paths"),
    button("cs-button", null, "Save paths and metadata as a CSV table", () => save(ids, "csv"), "CSV"),
    button("cs-button", null, "Save small copies without metadata, up to 1,024 pixels wide", () => save(ids, "zip"), "ZIP of previews"),
    button("cs-plain", "close", "Clear the selection (Esc)", () => gallery.clearSelection()),
  );
}

async function save(ids, kind) {
  say(`Preparing ${counted(ids.length, "picture")}…`);
  try {
    const blob = await api.exported(gallery.index, ids, kind);
    const link = make("a", { href: URL.createObjectURL(blob), download: `clipsearch.${kind}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say(`Saved as clipsearch.${kind}`);
  } catch (error) {
    say(error.message);
  }
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // only pages that are served over TLS, or from this machine, may use it
    const area = make("textarea.cs-aside", { value: text });
    root.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const lines = text.split("\n").length;
  say(lines > 1 ? `${number(lines)} paths copied` : "Path copied");
}

let saying = 0;
function say(text) {
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(saying);
  saying = setTimeout(() => { toast.hidden = true; }, 4000);
}

// ---- indexes and progress

function news(latest, trouble) {
  indexes = latest?.indexes ?? [];
  const names = indexes.map((index) => index.name);
  if ([...which.options].map((option) => option.value).join("\n") !== names.join("\n")) {
    which.replaceChildren(...names.map((name) => make("option", { value: name }, shown(name))));
  }
  which.hidden = names.length < 2;
  which.value = names.includes(state.index) ? state.index : names[0] ?? "";
  const known = indexes.find((index) => index.name === which.value)?.tags ?? [];
  tags.replaceChildren(...known.map((tag) => make("option", { value: tag.name })));
  const writing = indexes.filter((index) => index.is_being_written);
  const current = indexes.find((index) => index.name === answered?.index);
  progress.hidden = !(trouble || writing.length || (current && answered.generation < current.generation));
  if (trouble) progress.textContent = trouble;
  else if (writing.length) progress.textContent = `Indexing ${shown(writing[0].name)}: ${writing[0].progress?.total ? percent(writing[0].progress) : counted(writing[0].pictures, "picture")}`;
  else if (!progress.hidden) progress.textContent = "The index has changed. Show the changes";
  progress.onclick = () => {
    if (trouble || writing.length) go({ view: "status", id: null });
    else { answered = null; go({ view: "search" }); progress.hidden = true; }
  };
}

// ---- theme

function currentTheme() {
  try { return THEMES.includes(localStorage.theme) ? localStorage.theme : "auto"; } catch { return "auto"; }
}

function setTheme(name) {
  try { localStorage.theme = name; } catch { /* not kept, then */ }
  document.documentElement.dataset.csTheme = name;
  theme.title = `Theme: ${name}`;
  theme.setAttribute("aria-label", theme.title);
}

// ---- keys and the address

form.addEventListener("submit", (event) => {
  event.preventDefault();
  answered = answered && input.value === state.q ? null : answered; // asking again asks again
  go({ q: input.value.trim(), view: "search", id: null });
  if (matchMedia("(pointer: coarse)").matches) input.blur();
});
input.addEventListener("search", () => { if (!input.value && state.q) go({ q: "", id: null }); });

function home(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  forget();
  go({ ...EMPTY, index: state.index });
}

const isTyping = (element) => element.matches?.("input:not([type=checkbox]), textarea, select");

addEventListener("keydown", (event) => {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = isTyping(event.target);
  if (event.key === "Escape") {
    if (detail.isOpen) closeDetail();
    else if (typing) event.target.blur();
    else if (gallery.selected.size) gallery.clearSelection();
    else if (!filters.hidden) toggleFilters(false);
    else return;
  } else if (event.target === input && event.key === "ArrowDown" && gallery.total) {
    gallery.activate(Math.max(0, gallery.active));
  } else if (typing) {
    return;
  } else if (event.key === "/") {
    input.focus();
    input.select();
  } else if (state.view !== "search" && !detail.isOpen) {
    return;
  } else if (detail.isOpen && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    openAt(gallery.active + (event.key === "ArrowLeft" ? -1 : 1));
  } else if (detail.isOpen && event.key.startsWith("Arrow")) {
    return;
  } else if (gallery.step(event.key)) {
    gallery.activate(gallery.active < 0 ? 0 : gallery.active + gallery.step(event.key));
  } else if (event.key === "Home" || event.key === "End") {
    gallery.activate(event.key === "Home" ? 0 : gallery.total - 1);
  } else if (event.target.closest?.("button, a") && (event.key === "Enter" || event.key === " ")) {
    return; // the button's own
  } else {
    const hit = detail.hit ?? gallery.item(gallery.active);
    if (!hit) return;
    if (event.key === "Enter") openAt(gallery.active);
    else if (event.key === " " || event.key === "x") {
      gallery.toggleHit(hit);
      if (detail.isOpen) detail.show(hit, detail.index);
    }
    else if (event.key === "+") rate(hit, 1);
    else if (event.key === "-") rate(hit, -1);
    else if (event.key === "s") similar(hit);
    else if (event.key === "c") copy(shown(hit.path));
    else return;
  }
  event.preventDefault();
});

addEventListener("popstate", () => {
  state = fromAddress(location.search);
  draw();
});

setTheme(currentTheme());
draw();
status.poll();
if (!state.q && matchMedia("(pointer: fine)").matches) input.focus({ preventScroll: true });
moveInto(root, "clipsearch-frame");
root.dataset.ready = "1";
