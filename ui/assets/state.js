// What the page shows, as an address: a link brings back the same question, order, feedback and picture.

const SORTS = ["score", "date", "path"];
const VIEWS = ["search", "map", "status"];

const ids = (text) => (text ?? "").split(",").filter((id) => /^\d{1,18}$/.test(id)).map(Number);

export const EMPTY = {
  q: "", index: "", sort: "score", unique: true, diverse: false, all: false, up: [], down: [], view: "search", id: null,
};

export function fromAddress(search) {
  const given = new URLSearchParams(search);
  const pick = (name, allowed) => (allowed.includes(given.get(name)) ? given.get(name) : allowed[0]);
  return {
    q: given.get("q") ?? "",
    index: given.get("index") ?? "",
    sort: pick("sort", SORTS),
    unique: given.get("unique") !== "0",
    diverse: given.get("diverse") === "1",
    all: given.get("all") === "1",
    up: ids(given.get("up")),
    down: ids(given.get("down")),
    view: pick("view", VIEWS),
    id: ids(given.get("id"))[0] ?? null,
  };
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
  if (state.view !== "search") given.set("view", state.view);
  if (state.id !== null) given.set("id", state.id);
  const text = given.toString();
  return text ? `?${text}` : location.pathname;
}
