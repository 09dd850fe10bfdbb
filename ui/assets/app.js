// The page: puts its parts together and keeps them in step with the address.

import * as api from "./api.js";
import { Detail } from "./detail.js";
import { button, icon, make, shown } from "./dom.js";
import { download, progress as exportProgress, save as saveFile } from "./exports.js";
import { Facets } from "./facets.js";
import { Gallery } from "./gallery.js";
import { Help } from "./help.js";
import { PictureMap } from "./map.js";
import { bytes, percent, said, t } from "./messages.js";
import { filtersOf, quoted, ranks, withFilter } from "./query.js";
import { EMPTY, fromAddress, namesRows, toAddress, withoutRows } from "./state.js";
import { Saved, searchOf } from "./saved.js";
import { Scrubber } from "./scrubber.js";
import { Sketch } from "./sketch.js";
import { Start } from "./start.js";
import { Status } from "./status.js";
import { remember, Suggestions } from "./suggest.js";
import { Viewer } from "./viewer.js";
import * as tables from "./tables.js";

const THEMES = ["auto", "light", "dark"];
const PICTURE_SIDE = 1024; // a picture that is sent is made this small first
const root = document.getElementById("clipsearch");

let state = fromAddress(location.search);
let sent = null; // a picture that was dropped: {vector, url, number}
const everSent = new Map(); // by number, which the history of the browser keeps
let lastPlace = null;
let restoring = null; // where the gallery was, when somebody comes back to it
let leaving = null; // what is to be done when the browser has gone back
let onSheet = Boolean(history.state?.sheet); // whether the entry of the browser's history is that of the sheet of paper
let running = null;
let answered = null; // what the gallery shows the answer of
const lists = new Set(); // queries of which only the answer told that they put nothing in an order of likeness
let indexes = [];
let together = null; // all of them, searched as one
const served = (name) => (together?.name === name ? together : indexes.find((one) => one.name === name));
let server = { originals: false, version: null };
const identities = new Map(); // the id of each index, by its name; "" is the first one

// ---- the parts

const input = make("input.cs-query", {
  type: "search", name: "q", placeholder: t("search.placeholder"), autocomplete: "off", spellcheck: false,
  enterKeyHint: "search", "aria-label": t("search.label"),
});
const file = make("input", { type: "file", accept: tables.accepted, hidden: true, onchange: () => file.files[0] && send(file.files[0]) });
const chip = make("span.cs-chip", { hidden: true });
const form = make("form.cs-search", { role: "search" }, icon("search"), chip, input,
  button("cs-plain.cs-star", "star", t("saved.title"), () => saved.show()),
  button("cs-plain.cs-draw", "sketch", t("sketch.open"), () => openSheet()),
  button("cs-plain.cs-send", "picture", t("search.send"), () => file.click()), file);
const filterButton = button("cs-plain.cs-filter", "filter", t("filters.title"), () => toggleFilters());
filterButton.setAttribute("aria-expanded", "false");
const tabs = make("nav.cs-tabs", { "aria-label": t("views.label") }, ...["search", "map", "status"].map((view) =>
  make("button.cs-tab", { type: "button", dataset: { view }, onclick: () => go({ view, id: null }) }, t(`view.${view}`))));
const helpButton = button("cs-plain.cs-help-button", "help", t("help.open"), () => help.show());
const theme = button("cs-plain.cs-theme", "sun", t(`theme.${currentTheme()}`), () => setTheme(THEMES[(THEMES.indexOf(currentTheme()) + 1) % THEMES.length]));
const which = make("select.cs-which", { hidden: true, "aria-label": t("indexes.label"), onchange: () => switchTo(which.selectedOptions[0]) });
const header = make("header.cs-header", {}, make("a.cs-mark", { href: api.root, onclick: home }, "clipsearch"), form, filterButton, which, tabs, helpButton, theme);

const filters = make("section.cs-filters", { hidden: true, "aria-label": t("filters.title") });
const sort = make("select", { "aria-label": t("order.label"), onchange: () => go({ sort: sort.value }) },
  make("option", { value: "score" }, t("order.score")), make("option", { value: "date" }, t("order.date")), make("option", { value: "path" }, t("order.path")));
const unique = toggle(t("toggle.unique"), "unique");
const diverse = toggle(t("toggle.diverse"), "diverse", t("toggle.diverse_title"));
const all = toggle(t("toggle.all"), "all", t("toggle.all_title"));
all.label.hidden = true;
const summary = make("p.cs-summary", { role: "status", "aria-live": "polite" });
const feedback = make("p.cs-feedback", { hidden: true });
const bar = make("div.cs-bar-row", {}, summary, feedback, make("span.cs-space"), all.label, diverse.label, unique.label, sort);
const told = make("p.cs-told", { hidden: true, role: "status" });
const named = make("p.cs-named", { hidden: true, role: "status" }); // what file names say, where pictures do not
const problem = make("div.cs-problem", { role: "alert", hidden: true });
const grid = make("div.cs-grid", { role: "list", "aria-label": t("grid.label"), tabIndex: -1 });
const rail = make("div.cs-rail", { hidden: true });
const nothing = make("div.cs-nothing", { hidden: true });
const rest = make("p.cs-rest", { hidden: true });
const results = make("main.cs-results", {}, bar, told, named, problem, nothing, grid, rail, rest);
const mapView = make("main.cs-map", { hidden: true });
const statusView = make("main.cs-status", { hidden: true });
const panel = make("section.cs-detail", { "aria-label": t("viewer.panel") });
const stage = make("div.cs-viewer", { hidden: true, role: "dialog", "aria-modal": "true", tabIndex: -1 });
const selection = make("div.cs-selection", { hidden: true, role: "region", "aria-label": t("selection.label") });
const progress = make("button.cs-pill", { type: "button", hidden: true, onclick: () => go({ view: "status", id: null }) });
const toast = make("div.cs-toast", { role: "status", hidden: true });
const drop = make("div.cs-drop", { hidden: true }, make("p", {}, t("search.drop")));
const lost = make("p.cs-lost", { role: "status", hidden: true });
root.tabIndex = -1; // a click beside everything leaves the focus here, not at the document
const heading = make("h1.cs-unseen", {}, "clipsearch");
header.prepend(heading);
root.replaceChildren(header, filters, results, mapView, statusView, selection, progress, stage, toast, lost, drop);
const help = new Help(root);
const sketch = new Sketch(root, { search: (picture) => send(picture), closed: leaveSheet });
const saved = new Saved(root, {
  index: () => state.index,
  present: () => {
    const unsaved = [sent ? t("saved.without_picture") : "", state.up.length || state.down.length ? t("saved.without_thumbs") : ""];
    return { search: state.q ? searchOf(question()) : null, unsaved: unsaved.filter(Boolean).join(" ") };
  },
  open: (one) => openSaved(one),
  changed: async () => { // a saved search makes a state of the index with the same pictures
    const [shows, before] = [answered, answered?.generation];
    await status.poll();
    const now = served(shows?.index)?.generation;
    if (answered !== shows || now !== before + 1) return; // others changed it, too
    answered.generation = saved.generation = now;
    drawIndexes();
  },
});

const gallery = new Gallery(grid, {
  ask: (offset, k, signal) => api.search({ ...question(), offset, k }, signal),
  rows: async (offset, k) => {
    try {
      return (await api.rows({ ...question(), offset, k })).ids;
    } catch (error) {
      say(t("selection.not_added", { problem: error.message }));
      return [];
    }
  },
}, { open: openAt, select: drawSelection, rate, similar, failed, moved: () => scrubber.moved() });
const scrubber = new Scrubber(rail, gallery);
const detail = new Detail(panel, {
  hide: () => viewer.toggleInfo(), rate, similar, copy,
  rating: (hit) => gallery.ratings.get(hit.row_id) ?? 0,
  isSelected: (hit) => gallery.selected.has(hit.row_id),
  select: (hit) => { gallery.toggleHit(hit); detail.show(hit, detail.index); },
  open: (hit) => viewer.showInstead(hit),
  without: (hit) => go({ q: `${state.q} - like:${hit.row_id}`.trim(), id: null }),
  near: (place) => go({ q: withFilter(state.q, "near", `${place},5km`), id: null }),
  folder: (folder) => go({ q: withFilter(state.q, "folder", `${folder}/**`), id: null }),
  only: (field, value) => go({ q: withFilter(state.q, field, value.replaceAll('"', "?")), id: null }),
});
const viewer = new Viewer(stage, gallery, detail, {
  at: (n) => gallery.activate(n, false),
  moved: (hit) => {
    if (hit.row_id !== state.id) go({ id: hit.row_id, content: api.contentOf(hit) }, { replace: true });
  },
  closed: closeViewer, say,
  index: () => gallery.index || state.index || indexes[0]?.name || "",
  originals: () => server.originals,
  question: (hit) => {
    const { query, vector, like, unlike, index, index_id } = question();
    return hit.score !== null && (query || vector || like) ? { query, vector, like, unlike, index, index_id } : null;
  },
  hitOf: async (part) => {
    const { located } = await api.search({ ...question(), offset: 0, k: 1, locate: part.row_id }).catch(() => ({}));
    return located ?? api.picture(part.row_id, gallery.index || state.index || undefined, api.contentOf(part));
  },
  part: (hit, part) => {
    const inPixels = hit.width ? [hit.width, hit.height].flatMap((side, n) => {
      const start = Math.min(side - 1, Math.round(part[n] * side));
      return [[start, Math.max(1, Math.min(side - start, Math.round(part[n + 2] * side)))]];
    }) : null;
    const box = inPixels ? `${inPixels[0][0]},${inPixels[1][0]},${inPixels[0][1]},${inPixels[1][1]}` : `percent:${part.map((one) => (100 * one).toFixed(2))}`;
    go({ q: `like:${hit.row_id}#xywh=${box}`, id: null, up: [], down: [] }, { picture: null });
  },
});
const map = new PictureMap(mapView, { alike: api.alike, earth: api.earth }, {
  kind: (kind) => go({ view: kind === "earth" ? "places" : "map", id: null }),
  near: (latitude, longitude, km) => {
    const place = `${latitude.toFixed(5)},${longitude.toFixed(5)},${km < 1 ? `${Math.ceil(1000 * km)}m` : `${km.toFixed(1)}km`}`;
    go({ q: withFilter(state.q, "near", place), view: "search", id: null });
  },
  open: (picture) => go({ id: picture.row_id, content: api.contentOf(picture) }, { under: true }),
});
const status = new Status(statusView, { news });
const start = new Start({
  known: () => drawIndexes(),
  opened: (name) => {
    answered = null;
    status.poll();
    if (!state.index && state.view === "search") draw();
    else if (!indexes.length) go({ index: name, view: "search" });
  },
  done: () => {
    answered = null;
    status.poll();
    if (state.view === "search") draw();
  },
});
start.place(statusView);
const suggestions = new Suggestions(input, async (word, signal) => (await api.suggest({ word, ...(state.index ? { index: state.index } : {}) }, signal)).suggestions, () => saved.searches, {
  open: (one) => openSaved(one),
  run: (q) => { input.value = q; search(); },
});
form.append(suggestions.list, suggestions.said);

// ---- what is asked

function question() {
  const asked = { query: state.q, sort: state.sort, unique: state.unique && canGroup(state.q), diverse: state.diverse, all: state.all };
  if (state.index) asked.index = state.index;
  if (learns()) Object.assign(asked, state.up.length ? { like: state.up } : {}, state.down.length ? { unlike: state.down } : {});
  if (sent) asked.vector = sent.vector;
  const identity = state.ix ?? identities.get(state.index);
  if (identity) asked.index_id = identity;
  return asked;
}

/** Whether thumbs move the answer: who only looks through pictures marks some, and does not lose the place. */
const learns = () => Boolean(sent) || ranks(state.q);

/** Whether near-duplicates can be hidden behind the best: nothing is the best of a list, which leaves out none. */
const canGroup = (q, picture = sent) => Boolean(picture) || (ranks(q) && !lists.has(q));

/** What the answer depends on: the same key, the same gallery. */
function key() {
  const { index_id: _, ...asked } = question();
  return JSON.stringify([asked, sent?.number ?? 0]);
}

/** Change what is shown. `picture`: the one that was sent; `under`: what is opened lies over what was shown before. */
function go(changes, { replace = false, picture = sent, under = false } = {}) {
  if (!replace && sketch.isOpen) { sketch.dialog.close(); leaveSheet(); } // a picture was dropped on it
  if (leaving) { leaving.push(() => go(changes, { replace, picture, under })); return; }
  if ("q" in changes && changes.q !== state.q) changes = { up: [], down: [], view: "search", ...changes };
  if (!replace) { keepPlace(); map.restoring = null; }
  const returns = changes.view === "search" && state.view !== "search";
  state = { ...state, ...changes };
  if (state.id === null) state.content = null;
  state.ix = namesRows(state) ? state.ix ?? identities.get(state.index)?.slice(0, 8) ?? null : null;
  sent = picture;
  if (returns && answered?.key === key()) restoring = lastPlace;
  const kept = replace ? history.state : null;
  const entry = { sent: sent?.number ?? 0, under: replace ? kept?.under ?? false : under, place: kept?.place, sheet: kept?.sheet };
  history[replace ? "replaceState" : "pushState"](entry, "", toAddress(state));
  onSheet = Boolean(entry.sheet);
  draw();
}

/** Lay the sheet of paper over the page, with an entry of its own in the browser's history: Back closes it alone. */
function openSheet() {
  if (leaving) { leaving.push(openSheet); return; }
  keepPlace();
  history.pushState({ ...history.state, sheet: true }, "", toAddress(state));
  onSheet = true;
  sketch.show();
}

/** The sheet was closed: leave its entry, unless Back did that. */
function leaveSheet() {
  if (sketch.isOpen || leaving || !history.state?.sheet) return;
  leaving = [];
  history.back();
}

/** Note in the browser's history where the gallery is, for whoever comes back. */
function keepPlace() {
  if (!mapView.hidden && map.kept()) history.replaceState({ ...history.state, map: map.kept() }, "");
  if (state.view !== "search" || !gallery.total) return;
  lastPlace = gallery.place();
  history.replaceState({ ...history.state, place: lastPlace }, "");
}

function draw() {
  input.value = state.q;
  sort.value = state.sort;
  for (const [name, box] of Object.entries({ unique, diverse, all })) box.input.checked = state[name];
  const isMap = state.view === "map" || state.view === "places";
  const shows = isMap ? "map" : state.view;
  for (const tab of tabs.children) tab.setAttribute("aria-current", tab.dataset.view === shows ? "page" : "false");
  document.title = heading.textContent = state.q ? `${state.q} – clipsearch` : "clipsearch";
  results.hidden = state.view !== "search";
  mapView.hidden = !isMap;
  root.dataset.view = shows;
  if (state.view === "status") status.show(); else status.hide();
  if (isMap) map.show(state.view === "map" ? "alike" : "earth", `${key()} ${answered?.generation ?? ""}`, question());
  if (state.view === "search") ask();
  drawFilters();
  drawFeedback();
  drawChip();
  drawViewer();
}

async function ask() {
  const [asked, wanted] = [key(), question()];
  if (answered?.key === asked || running?.key === asked) {
    rated();
    gallery.marks();
    if (restoring && answered?.key === asked && gallery.total) gallery.restore(restoring);
    if (answered?.key === asked) restoring = null;
    return;
  }
  running?.controller.abort();
  const controller = new AbortController();
  running = { key: asked, controller };
  const open = viewer.isOpen ? viewer.hit.row_id : null;
  root.classList.add("cs-busy");
  const began = performance.now();
  try {
    const locate = open === null ? {} : { locate: open };
    const answer = await api.search({ ...wanted, ...locate, offset: 0, k: Gallery.first, timeline: true }, controller.signal);
    if (controller.signal.aborted) return;
    if (wanted.unique && answer.hits.length && !isScored(answer.hits)) {
      lists.add(wanted.query);
      await ask();
      return;
    }
    if (gallery.index !== answer.index || (answered ?? answer).index_id !== answer.index_id) gallery.selected.clear();
    answered = { key: asked, ...answer };
    identities.set(state.index, answer.index_id).set(answer.index, answer.index_id);
    if (saved.of !== answer.index_id || saved.generation !== answer.generation) {
      saved.generation = answer.generation;
      saved.load();
    }
    problem.hidden = true;
    rated();
    gallery.show(answer.index, answer.total, answer.hits, answer.timeline);
    if (restoring && answer.total) gallery.restore(restoring); else scrollTo(0, 0);
    restoring = null;
    if (viewer.isOpen && viewer.hit.row_id === open) {
      viewer.moveTo(answer.position, answer.located);
      if (answer.position !== null) gallery.activate(answer.position, false);
    }
    drawSummary(performance.now() - began);
    scrubber.draw();
    if (!filters.hidden) facets.show(`${asked} ${answer.generation}`);
    drawSelection();
    drawViewer();
  } catch (error) {
    if (error.name === "AbortError" || failed(error)) return;
    answered = null;
    gallery.show(gallery.index, 0, []);
    summary.textContent = "";
    nothing.hidden = rest.hidden = told.hidden = named.hidden = true;
    drawProblem(error);
  } finally {
    if (running?.controller === controller) {
      running = null;
      root.classList.remove("cs-busy");
    }
  }
}

/** Whether an error is dealt with: the server is away, or has another index now. */
function failed(error) {
  if (error.status === 0) return true; // `lost` says so, and asks again
  if (error.kind === "NothingIndexed") {
    problem.hidden = nothing.hidden = rest.hidden = told.hidden = true;
    summary.textContent = "";
    return true; // `start` offers to index
  }
  if (error.kind !== "OtherIndex") return false;
  const before = namesRows(state);
  identities.clear();
  answered = running = null;
  gallery.clearSelection();
  if (viewer.isOpen) viewer.shut();
  if (before) say(t("indexes.other"));
  go(withoutRows(state), { replace: true });
  return true;
}

const isScored = (hits) => hits.some((hit) => typeof hit.score === "number");

function drawSummary(took) {
  const { total, hidden, hits } = answered;
  const asksFor = state.q || sent;
  const scored = hits.length ? isScored(hits) : Boolean(asksFor);
  const byScore = sort.querySelector("[value=score]");
  byScore.hidden = byScore.disabled = !scored; // nothing is better than another then
  sort.value = !scored && state.sort === "score" ? "date" : state.sort;
  unique.label.hidden = !scored;
  diverse.label.hidden = !scored || state.sort !== "score";
  summary.textContent = t(asksFor ? "summary.results" : "summary.pictures", { n: total, ms: Math.round(took) });
  summary.dataset.ms = Math.round(took);
  const allNotices = answered.notices.map((english, n) => ({ text: said(answered.sentences?.[n]) ?? english, parts: answered.sentences?.[n]?.parts ?? {} }));
  const notices = total ? allNotices : allNotices.slice(1); // the first says why nothing is found
  told.replaceChildren(...notices.map(notice));
  told.hidden = !notices.length;
  nothing.hidden = total > 0;
  if (!total) {
    const index = served(answered.index);
    const empty = index && !index.pictures;
    nothing.replaceChildren(
      make("h2", {}, t(empty ? "nothing.empty" : "nothing.found")),
      make("p", {}, empty ? t("nothing.index", { command: "clipsearch index ./photos" }) : said(allNotices[0].parts.why) ?? allNotices[0].text),
    );
  }
  offerNames();
  rest.hidden = !total || !hidden;
  rest.replaceChildren(
    `${t("rest.hidden", { n: hidden })} `, button("cs-button", null, t("rest.show"), () => go({ all: true }), t("rest.show")),
  );
  all.label.hidden = !state.all && !hidden && !hits.some((hit) => hit.band);
}

/** A notice, on a line of its own; the queries that it offers can be clicked. */
function notice({ text, parts }) {
  const line = make("span.cs-notice");
  for (const offered of [parts.other, parts.query].filter((part) => part && typeof part === "string")) {
    const from = text.lastIndexOf(offered); // offers stand at the end, behind the words that they are about
    if (from < 0) continue;
    line.prepend(button("cs-link", null, undefined, () => go({ q: offered, id: null }), make("code", {}, offered)), text.slice(from + offered.length));
    text = text.slice(0, from);
  }
  line.prepend(text);
  return line;
}

const WORDS = /^[^\s:"“”()+*?^-][^:"“”()+*?^]*$/; // a query of words alone

/** Where no picture surely shows what was asked, offer those that have the words in their file names. */
async function offerNames() {
  named.hidden = true;
  const asked = answered;
  if (sent || !WORDS.test(state.q) || asked.hits.some(({ band }) => band === "strong")) return;
  const query = state.q.trim().split(/\s+/).map((word) => `name:${quoted(word)}`).join(" ");
  try {
    const { total } = await api.search({ query, ...(state.index ? { index: state.index } : {}), index_id: asked.index_id, offset: 0, k: 1 });
    if (answered !== asked || !total) return;
    named.replaceChildren(`${t("named.found", { n: total })} `, button("cs-link", null, t("named.show_title"), () => go({ q: query, id: null }), t("named.show")));
    named.hidden = false;
  } catch { /* nothing is offered, then */ }
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
    const one = { vector, url: URL.createObjectURL(picture), number: Date.now() };
    everSent.set(one.number, one);
    problem.hidden = true;
    go({ q: "", up: [], down: [], view: "search", id: null, all: state.all }, { picture: one });
  } catch (error) {
    drawProblem(error);
    root.classList.remove("cs-busy");
  } finally {
    file.value = "";
  }
}

function drawChip() {
  if (String(sent?.number ?? "") === (chip.dataset.number ?? "")) return;
  chip.dataset.number = sent?.number ?? "";
  chip.hidden = !sent;
  chip.replaceChildren(...(sent ? [make("img", { alt: t("search.sent"), src: sent.url }),
    button("cs-plain", "close", t("search.without"), () => go({}, { picture: null }))] : []));
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
  if (picture) send(picture); else say(t("search.unreadable"));
});
addEventListener("paste", (event) => {
  const picture = pictureIn(event.clipboardData);
  if (picture) { event.preventDefault(); send(picture); }
});

// ---- filters

const controls = new Map();
const tags = make("datalist", { id: "cs-tags" });
const values = make("div.cs-facet-values");
filters.append(tags, values);
const facets = new Facets(values, (signal) => api.facets(question(), signal), {
  query: () => input.value, go: (q) => go({ q, id: null }),
});
for (const { name, kind, type, placeholder, options } of tables.filters) {
  const control = options.length
    ? make("select", {}, make("option", { value: "" }, t("filters.any")), ...options.map(([value, text]) => make("option", { value }, optionName(name, value) ?? text)))
    : make("input", { type, placeholder: placeholder && t(`example.${name}`), autocomplete: "off", spellcheck: false, ...(kind === "tag" ? { list: "cs-tags" } : {}) });
  control.name = name;
  control.onchange = () => go({ q: withFilter(input.value, name, control.value.trim()), id: null });
  controls.set(name, control);
  filters.append(make("label", {}, make("span", {}, t(`filter.${name}`)), control));
}
filters.append(button("cs-button", null, t("filters.clear_title"), () => {
  go({ q: tables.filters.reduce((q, { name }) => withFilter(q, name, ""), input.value), id: null });
}, t("filters.clear")));

/** What an option of a filter is called; undefined for what has a name of its own, as types of files. */
function optionName(field, value) {
  const [, sign, amount, unit] = /^([<>]=?)?(-?\d+)([kMG]B)?$/.exec(value) ?? [];
  if (amount === undefined) return field === "ext" ? undefined : t(`option.${field}.${value}`);
  if (field === "rating") return amount < 0 ? t("fact.rejected") : t(sign ? "option.stars_or_more" : "option.stars", { n: Number(amount) });
  const size = field === "size" ? bytes(Number(amount) * { kB: 1e3, MB: 1e6, GB: 1e9 }[unit]) : t("option.pixels", { n: Number(amount) });
  return t(sign === "<" ? "option.under" : "option.over", { size });
}

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
  if (open && answered) facets.show(`${answered.key} ${answered.generation}`);
}

function toggle(text, name, title) {
  const box = make("input", { type: "checkbox", onchange: () => go({ [name]: box.checked }) });
  return { input: box, label: make("label.cs-toggle", { title: title ?? text }, box, text) };
}

// ---- one picture

async function openAt(n) {
  if (n < 0 || n >= gallery.total) return;
  gallery.activate(n, false);
  const hit = gallery.item(n) ?? await gallery.load(n);
  if (!hit || viewer.isOpen) return;
  opening = hit.row_id;
  go({ id: hit.row_id, content: api.contentOf(hit) }, { under: true });
  viewer.open(hit, n);
  opening = null;
  drawViewer();
}

/** Open or close the large view as the address says. */
async function drawViewer() {
  const hides = [header, filters, results, mapView, statusView, selection, progress];
  if (state.id === null) {
    if (!viewer.isOpen) return;
    viewer.shut();
    for (const part of hides) part.inert = false;
    focusPlace();
    return;
  }
  for (const part of hides) part.inert = viewer.isOpen;
  if (viewer.hit?.row_id === state.id || opening === state.id || (state.view === "search" && !answered)) return;
  const id = opening = state.id;
  try {
    const hit = await api.picture(id, state.index || undefined, state.content ?? undefined);
    const { position, located } = state.view === "search"
      ? await api.search({ ...question(), offset: 0, k: 1, locate: hit.row_id }) : { position: null };
    if (state.id !== id || opening !== id) return;
    const known = position === null ? undefined : await gallery.load(position); // of the same file, or of alike pictures
    if (known) gallery.activate(position, false);
    viewer.open(known?.row_id === hit.row_id ? known : located ?? hit, known ? position : null);
    for (const part of hides) part.inert = true;
    if (hit.row_id !== state.id) go({ id: hit.row_id, content: api.contentOf(hit) }, { replace: true });
  } catch (error) {
    if (failed(error)) return;
    say(error.message);
    if (state.id === id) go({ id: null }, { replace: true });
  } finally {
    if (opening === id) opening = null;
  }
}
let opening = null;

/** Close the large view: back to what was there before it was opened, so that Back does not open it again. */
function closeViewer() {
  if (state.id === null || leaving) return;
  state = { ...state, id: null, content: null };
  drawViewer();
  if (history.state?.under) {
    leaving = [];
    history.back();
  } else go({ id: null }, { replace: true });
}

/** Where the focus goes when what had it is gone. */
function focusPlace() {
  if (!mapView.hidden) mapView.querySelector("canvas").focus();
  else if (state.view === "search" && gallery.total) gallery.activate(Math.max(0, gallery.active));
  else tabs.querySelector("[aria-current=page]").focus();
}

function similar(hit) {
  go({ q: `like:${hit.row_id}`, id: null, up: [], down: [] }, { picture: null });
}

// ---- thumbs

function rated() {
  gallery.ratings = new Map([...state.up.map((id) => [id, 1]), ...state.down.map((id) => [id, -1])]);
}

function rate(hit, way) {
  const before = gallery.ratings.get(hit.row_id) ?? 0;
  const [up, down] = [state.up, state.down].map((ids) => ids.filter((id) => id !== hit.row_id));
  if (before !== way) (way > 0 ? up : down).push(hit.row_id);
  gallery.ratings.set(hit.row_id, before === way ? 0 : way);
  go({ up, down }, { replace: true });
  if (detail.hit?.row_id === hit.row_id) detail.show(hit, detail.index);
}

function drawFeedback() {
  const count = state.up.length + state.down.length;
  feedback.hidden = !count;
  if (count) {
    feedback.replaceChildren(icon("up"), ` ${state.up.length} `, icon("down"), ` ${state.down.length} `,
      state.up.length ? button("cs-link", null, t("thumbs.save_title"), keepConcept, t("thumbs.save")) : "",
      ...(state.up.length && !learns() ? [" ", button("cs-link", null, t("thumbs.show_title"), showAlike, t("thumbs.show"))] : []),
      " ", button("cs-link", null, t("thumbs.reset_title"), () => go({ up: [], down: [] }), t("thumbs.reset")));
  }
}

/** Look for what is like the marked pictures, among what is shown. */
function showAlike() {
  go({ q: [state.q, ...state.up.map((id) => `like:${id}`), ...state.down.map((id) => `- like:${id}`)].join(" ").trim(), id: null });
}

/** Ask for a name, and keep what the thumbs say under it. */
function keepConcept() {
  const name = make("input.cs-name-it", { type: "text", placeholder: t("example.tag"), "aria-label": t("thumbs.name"), autocomplete: "off" });
  const submit = make("button.cs-button", { type: "submit" }, t("thumbs.keep"));
  const asking = make("form", {}, name, submit);
  let taken = null; // a name that is another tag's, which a second press replaces
  name.oninput = () => {
    taken = null;
    submit.textContent = t("thumbs.keep");
  };
  asking.onsubmit = async (event) => {
    event.preventDefault();
    if (!name.value.trim()) return;
    try {
      const kept = await api.keepConcept({
        index: gallery.index, index_id: answered?.index_id, name: name.value.trim(), like: state.up, unlike: state.down,
        replace: taken === name.value.trim(),
      });
      say(t("thumbs.saved", { query: withFilter("", "tag", kept.name) }));
      status.poll();
      go({ q: withFilter("", "tag", kept.name), id: null });
    } catch (error) {
      say(error.kind === "TagExists" ? t("thumbs.taken") : error.message);
      if (error.kind === "TagExists") {
        taken = name.value.trim();
        submit.textContent = t("replace");
      }
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
  const held = selection.contains(document.activeElement) ? document.activeElement.title : null;
  selection.replaceChildren(
    make("strong", {}, t("selection.count", { n: count })),
    button("cs-button", "copy", t("selection.copy_title"), copyPaths, t("selection.copy")),
    button("cs-button", null, t("selection.csv_title"), () => saveSelection("csv"), "CSV"),
    button("cs-button", null, t("selection.zip_title", { n: 1024 }), () => saveSelection("zip"), t("selection.zip")),
    button("cs-plain", "close", t("selection.clear"), () => { gallery.clearSelection(); focusPlace(); }),
  );
  if (held) [...selection.querySelectorAll("button")].find((one) => one.title === held)?.focus();
}

const asked = (form) => ({ index: gallery.index, index_id: answered?.index_id, ids: [...gallery.selected.keys()], form });

async function saveSelection(form) {
  const total = gallery.selected.size;
  const controller = new AbortController();
  const state = make("span", {}, t("export.preparing", { n: total }));
  const row = make("div.cs-saving", { role: "status" }, state, button("cs-button", null, t("export.stop"), () => controller.abort(), t("export.stop")));
  root.append(row);
  try {
    const { blob, leftOut } = await download(asked(form), controller.signal, (done) => { state.textContent = exportProgress(done, total); });
    const name = saveFile(blob, form);
    say(leftOut ? t("export.saved_without", { name, n: leftOut }) : t("export.saved", { name }));
  } catch (error) {
    if (error.name !== "AbortError") say(t("export.failed", { problem: error.message }));
  } finally {
    row.remove();
  }
}

/** Whether a path is text of one line; of others the server writes what is in them as escapes: \\x0a. */
const isLine = (path) => !/[\p{C}\p{Zl}\p{Zp}]/u.test(path) && shown(path) === path;

async function copyPaths() {
  const hits = [...gallery.selected.values()];
  if (hits.every((hit) => hit && isLine(hit.path))) { copy(hits.map((hit) => hit.path).join("\n"), hits.length); return; }
  try {
    const { blob, leftOut } = await download(asked("paths"), undefined, () => {});
    copy((await blob.text()).trimEnd(), hits.length - leftOut);
  } catch (error) {
    say(t("copy.failed", { problem: error.message }));
  }
}

async function copy(text, paths = 1) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // only pages that are served over TLS, or from this machine, may use it
    const [area, focused] = [make("textarea.cs-aside", { value: text }), document.activeElement];
    (viewer.isOpen ? stage : root).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    focused?.focus({ preventScroll: true });
  }
  say(t("copy.done", { n: paths }));
}

let saying = 0;
function say(text) {
  toast.textContent = text;
  toast.hidden = false;
  clearTimeout(saying);
  saying = setTimeout(() => { toast.hidden = true; }, 4000);
}

// ---- indexes and progress

let isBehind = false;
function news(latest) {
  indexes = latest?.indexes ?? [];
  together = latest?.together ?? null;
  if (latest) {
    const updated = server.version && latest.version !== server.version;
    server = { originals: latest.originals, version: server.version ?? latest.version };
    if (updated) { lost.hidden = false; lost.replaceChildren(`${t("server.updated")} `, button("cs-link", null, t("server.reload"), () => location.reload(), t("server.reload"))); }
    const behind = indexes.some((index) => index.is_behind);
    if (behind) { lost.hidden = false; lost.textContent = t("said.behind"); } else if (isBehind) lost.hidden = true;
    isBehind = behind;
    const now = served(answered?.index)?.id;
    if (answered && now !== answered.index_id && !running) failed(new api.ApiError(409, { error: "OtherIndex" }));
  }
  if (latest && (start.served ?? indexes.length) !== indexes.length) start.load(); // another page may have opened one
  if (latest) start.served = indexes.length;
  drawIndexes();
}

function drawIndexes() {
  const isEmpty = Boolean(status.latest) && !indexes.length;
  start.place(isEmpty ? results : statusView);
  root.classList.toggle("cs-empty", isEmpty);
  drawWhich();
  const known = indexes.filter(({ name }) => name === which.value || which.value === together?.name).flatMap((index) => index.tags);
  tags.replaceChildren(...[...new Set(known.map((tag) => tag.name))].map((value) => make("option", { value })));
  const writing = indexes.filter((index) => index.is_being_written);
  const current = served(answered?.index);
  progress.hidden = !(writing.length || start.isUnfinished || (current && answered.generation < current.generation));
  if (writing.length) progress.textContent = t("pill.indexing", { name: shown(writing[0].name), how_far: writing[0].progress?.total ? percent(writing[0].progress) : t("pictures", { n: writing[0].pictures }) });
  else if (start.isUnfinished) progress.textContent = t("pill.go_on");
  else if (!progress.hidden) progress.textContent = t("pill.changed");
  progress.onclick = () => {
    if (writing.length || start.isUnfinished) go({ view: "status", id: null });
    else { answered = null; go({ view: "search" }); progress.hidden = true; }
  };
}

/** The indexes that are served, and those that were used before and can be opened. */
function drawWhich() {
  const names = indexes.map((index) => index.name);
  const key = JSON.stringify([names, together?.problem, start.known]);
  if (which.dataset.key !== key) {
    which.dataset.key = key;
    const others = start.known.map(({ id, folder }) => make("option", { value: `\0${id}`, dataset: { id } }, shown(folder)));
    const all = together && make("option", { value: together.name, disabled: Boolean(together.problem), title: together.problem ?? "" }, t("indexes.all"));
    which.replaceChildren(...names.map((name) => make("option", { value: name }, shown(name))), ...(all ? [all] : []),
      ...(others.length ? [make("optgroup", { label: t("indexes.before") }, ...others)] : []));
  }
  which.hidden = names.length + start.known.length < 2;
  which.value = served(state.index) ? state.index : names[0] ?? "";
}

async function switchTo(option) {
  let index = option.value;
  try {
    if (option.dataset.id) ({ index } = await api.openKnown(option.dataset.id));
  } catch (error) {
    say(error.message);
    drawWhich();
    return;
  }
  go({ ...withoutRows(state), index, id: null }); // numbers of pictures mean others there
  status.poll();
  if (option.dataset.id) start.load();
}

// ---- a server that is away, and comes back

const PATIENCE_S = [1, 2, 4, 8];
let isAway = false;
api.connection.addEventListener("lost", async () => {
  isAway = true;
  lost.hidden = false;
  lost.textContent = t("server.lost");
  for (let n = 0; isAway; n++) {
    await new Promise((done) => setTimeout(done, 1000 * PATIENCE_S[Math.min(n, PATIENCE_S.length - 1)]));
    await status.poll();
  }
});
api.connection.addEventListener("back", () => {
  isAway = false;
  lost.hidden = true;
  status.poll();
  gallery.retry();
  draw();
});

// ---- theme

function currentTheme() {
  try { return THEMES.includes(localStorage.theme) ? localStorage.theme : "auto"; } catch { return "auto"; }
}

function setTheme(name) {
  try { localStorage.theme = name; } catch { /* not kept, then */ }
  document.documentElement.dataset.csTheme = name;
  theme.title = t(`theme.${name}`);
  theme.setAttribute("aria-label", theme.title);
}

// ---- keys and the address

form.addEventListener("submit", (event) => {
  event.preventDefault();
  suggestions.close();
  search();
  if (matchMedia("(pointer: coarse)").matches) input.blur();
});
/** Show what a saved search finds. */
function openSaved({ query, sort, unique, diverse, all }) {
  go({ q: query, sort, unique: canGroup(query, null) ? unique : state.unique, diverse, all, up: [], down: [], view: "search", id: null }, { picture: null });
}

/** Ask what the box says. */
function search() {
  remember(input.value);
  answered = answered && input.value === state.q ? null : answered; // asking again asks again
  go({ q: input.value.trim(), view: "search", id: null });
}
input.addEventListener("search", () => { if (!input.value && state.q) go({ q: "", id: null }); });

function home(event) {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go({ ...EMPTY, index: state.index }, { picture: null });
}

const isTyping = (element) => element.matches?.("input:not([type=checkbox]), textarea, select");

addEventListener("keydown", (event) => {
  if (event.isComposing || event.keyCode === 229) return; // the input method's own
  if (event.target === input && suggestions.key(event)) { event.preventDefault(); return; }
  if (event.defaultPrevented || event.altKey || help.isOpen || saved.isOpen || sketch.isOpen) return;
  const typing = isTyping(event.target);
  if (event.ctrlKey || event.metaKey) {
    if (event.key !== "a" || typing || viewer.isOpen || state.view !== "search" || !gallery.total) return;
    gallery.selectRange(0, gallery.total - 1);
  } else if (viewer.isOpen && event.key === "Tab") {
    if (!trapped(event)) return;
  } else if (event.key === "Escape") {
    if (viewer.isOpen) { if (!viewer.cancel()) closeViewer(); }
    else if (typing) event.target.blur();
    else if (gallery.selected.size) { gallery.clearSelection(); if (!grid.contains(document.activeElement)) focusPlace(); }
    else if (!filters.hidden) toggleFilters(false);
    else return;
  } else if (event.target === input && event.key === "ArrowDown" && gallery.total) {
    gallery.activate(Math.max(0, gallery.active));
  } else if (typing) {
    return;
  } else if (event.key === "?") {
    viewer.pause(); // pictures would go by behind it
    help.show();
  } else if (viewer.isOpen && event.key.startsWith("Arrow")) {
    viewer.arrow(event.key);
  } else if (event.target.closest?.("button:not(.cs-open), a") && (event.key === "Enter" || event.key === " ")) {
    return; // the button's own
  } else if (viewer.isOpen && JUMPS[event.key]) {
    if (event.target.closest?.(".cs-detail") || event.target === viewer.video) return; // which scroll, and seek, by them
    viewer.jump(JUMPS[event.key]);
  } else if (viewer.isOpen && VIEWER_KEYS[event.key]) {
    VIEWER_KEYS[event.key]();
  } else if (viewer.isOpen && ["/", "Enter"].includes(event.key)) {
    return;
  } else if (event.key === "/") {
    input.focus();
    input.select();
  } else if (state.view !== "search" && !viewer.isOpen) {
    return;
  } else if (gallery.target(event.key) !== undefined) {
    gallery.activate(gallery.active < 0 ? 0 : gallery.target(event.key));
  } else if (event.key === "Home" || event.key === "End") {
    gallery.activate(event.key === "Home" ? 0 : gallery.total - 1);
  } else {
    const hit = viewer.hit ?? gallery.item(gallery.active);
    if (!hit) return;
    if (event.key === "Enter") openAt(gallery.active);
    else if (event.key === " " || event.key === "x") {
      gallery.toggleHit(hit);
      if (viewer.isOpen) detail.show(hit, detail.index);
    }
    else if (event.key === "+") rate(hit, 1);
    else if (event.key === "-") rate(hit, -1);
    else if (event.key === "s") similar(hit);
    else if (event.key === "c") copy(shown(hit.path));
    else return;
  }
  event.preventDefault();
});
addEventListener("keyup", (event) => { if (event.key === " " && event.target.closest?.(".cs-open")) event.preventDefault(); });

const JUMPS = { Home: -Infinity, End: Infinity, PageUp: -10, PageDown: 10 };
const VIEWER_KEYS = {
  z: () => viewer.zoom(0), "=": () => viewer.zoom(1.5), _: () => viewer.zoom(1 / 1.5), p: () => viewer.togglePlay(),
  w: () => viewer.toggleWhere(), r: () => viewer.toggleCrop(), t: () => viewer.toggleWords(),
  f: () => viewer.toggleFullScreen(), i: () => viewer.toggleInfo(), o: () => viewer.showOriginal(), m: () => viewer.playMoment(),
};

/** Keep Tab within the large view; whether it would have left it. */
function trapped(event) {
  const all = [...stage.querySelectorAll("button:not([disabled], [tabindex='-1']), a[href], [tabindex='0']")].filter((one) => one.checkVisibility({ visibilityProperty: true }));
  const at = all.indexOf(document.activeElement);
  if (!all.length || (event.shiftKey ? at > 0 : at >= 0 && at < all.length - 1)) return false;
  all.at(event.shiftKey ? -1 : 0).focus();
  return true;
}

// What had the focus may be taken away or hidden: the focus then goes to the pictures, never to the document.
addEventListener("focusout", () => requestAnimationFrame(() => {
  if (document.activeElement === document.body && document.hasFocus()) (viewer.isOpen ? stage : grid.checkVisibility() ? grid : root).focus({ preventScroll: true });
}));

history.scrollRestoration = "manual";
addEventListener("pagehide", keepPlace);
addEventListener("popstate", (event) => {
  for (const dialog of root.querySelectorAll("dialog[open]")) dialog.close(); // what it lay over is left
  const waiting = leaving ?? [];
  const isSame = toAddress(fromAddress(location.search)) === toAddress(state) && (everSent.get(event.state?.sent) ?? null) === sent;
  const isOfSheet = onSheet || event.state?.sheet;
  onSheet = Boolean(event.state?.sheet);
  if (onSheet) sketch.show();
  if (isOfSheet && isSame) { // the page below it is as it was, with what was typed
    leaving = null;
    for (const act of waiting) act();
    return;
  }
  const was = { ...state, isLarge: leaving !== null || state.id !== null };
  leaving = null;
  state = fromAddress(location.search);
  if (was.isLarge && state.id === null && ["q", "index", "view"].every((name) => was[name] === state[name]) && (!state.ix || !was.ix || state.ix === was.ix)) {
    state = { ...state, up: was.up, down: was.down, ix: was.ix }; // thumbs given in the large view hold when it is left
    history.replaceState(event.state, "", toAddress(state));
  }
  sent = everSent.get(event.state?.sent) ?? null;
  const stays = answered?.key === key() && results.checkVisibility(); // the pictures were there all the time
  restoring = stays ? null : event.state?.place ?? null;
  map.restoring = event.state?.map ?? null;
  draw();
  for (const act of waiting) act();
});

setTheme(currentTheme());
restoring = history.state?.place ?? null;
map.restoring = history.state?.map ?? null;
draw();
status.poll();
start.load();
if (!state.q && matchMedia("(pointer: fine)").matches) input.focus({ preventScroll: true });
if (onSheet) sketch.show(); // the page was loaded again under it
root.dataset.ready = "1";
