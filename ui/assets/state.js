// What the page shows, as an address: a link brings back the same question, order, feedback and picture.
// What speaks of pictures by number carries the index's id, and the open picture its content: see server/identity.py.

const SORTS = ["score", "date", "path"];
const VIEWS = ["search", "map", "places", "status"];
const LIKE = /(^|[\s(]|[+-]\s*)((?:[+-]\s*)?like:\d+)\b(?:#xywh=[\w:.,]*)?(\^[\d.]+)?/gi;

const ids = (text) => (text ?? "").split(",").filter((id) => /^\d{1,18}$/.test(id)).map(Number);

export const EMPTY = {
  q: "", index: "", ix: null, sort: "score", unique: true, diverse: false, all: false, up: [], down: [], view: "search",
  id: null, content: null,
};

export function fromAddress(search) {
  const given = new URLSearchParams(search);
  const pick = (name, allowed) => (allowed.includes(given.get(name)) ? given.get(name) : allowed[0]);
  const [, id, content] = /^(\d{1,18})(?:-([0-9a-f]{16}))?$/.exec(given.get("id") ?? "") ?? [];
  return {
    q: given.get("q") ?? "",
    index: given.get("index") ?? "",
    ix: /^[0-9a-f]{8}$/.test(given.get("ix") ?? "") ? given.get("ix") : null,
    sort: pick("sort", SORTS),
    unique: given.get("unique") !== "0",
    diverse: given.get("diverse") === "1",
    all: given.get("all") === "1",
    up: ids(given.get("up")),
    down: ids(given.get("down")),
    view: pick("view", VIEWS),
    id: id === undefined ? null : Number(id),
    content: content ?? null,
  };
}

/** Whether a state speaks of pictures by their numbers in one index. */
export const namesRows = (state) => Boolean(state.up.length || state.down.length || state.q.search(LIKE) >= 0);

/** The same without what it says by number. */
export function withoutRows(state) {
  return { ...state, q: state.q.replace(LIKE, "$1").replace(/ {2,}/g, " ").trim(), up: [], down: [], ix: null };
}

export function toAddress(state) {
  const given = new URLSearchParams();
  if (state.q) given.set("q", state.q);
  if (state.index) given.set("index", state.index);
  if (state.sort !== "score") given.set("sort", state.sort);
  if (!state.unique) given.set("unique", "0");
  if (state.diverse) given.set("diverse", "1");
  if (state.all) given.set("all", "1");
  if (state.up.length) given.set("up", state.up.join(","));
  if (state.down.length) given.set("down", state.down.join(","));
  if (state.ix && namesRows(state)) given.set("ix", state.ix);
  if (state.view !== "search") given.set("view", state.view);
  if (state.id !== null) given.set("id", state.content ? `${state.id}-${state.content}` : state.id);
  const text = given.toString();
  return text ? `?${text}` : location.pathname;
}
