// Talks to the HTTP API. Knows nothing of the page.

import { knows, language, said, skipReason, t } from "./messages.js";

/** Where the server's paths begin: "/", or "/photos/" behind a proxy. This file is at ui/HASH/ from there. */
export const root = new URL("../../", import.meta.url).pathname;

export class ApiError extends Error {
  constructor(status, problem) {
    super(told(status, problem));
    this.status = status;
    this.kind = problem.error || "";
    this.position = problem.position;
  }
}

/** What is wrong, in the reader's language where the server's sentence is known in it. */
export function told(status, { error, message, fields, sentences }) {
  if (language === "en" && message) return message;
  const lines = (sentences ?? []).map(said);
  if (lines.length && lines.every(Boolean)) return lines.join("\n");
  const key = `error.${status === 413 ? "TooLarge" : error}`;
  const path = fields?.path === "the picture" ? t("search.the_picture") : fields?.path; // one that was sent
  if (knows(key)) return t(key, { ...fields, path, why: skipReason(fields ?? {}) });
  return message || t("server.answered", { status: String(status) });
}

/** "lost" when the server does not answer, "back" when it does again. */
export const connection = new EventTarget();
let isLost = false;
function heard(lost) {
  if (lost === isLost) return;
  isLost = lost;
  connection.dispatchEvent(new Event(lost ? "lost" : "back"));
}

async function answer(path, options) {
  let response;
  try {
    response = await fetch(root + path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    heard(true);
    throw new ApiError(0, { message: t("server.silent") });
  }
  heard(false);
  if (response.status === 401) {
    location.assign(`${root}login?next=${encodeURIComponent(location.pathname + location.search)}`);
  }
  if (!response.ok) {
    throw new ApiError(response.status, await response.json().catch(() => ({})));
  }
  return response;
}

const post = (path, body, signal) =>
  answer(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), signal });

const get = (path, parameters = {}, signal) => {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return answer(given.length ? `${path}?${new URLSearchParams(given)}` : path, { signal });
};

/** Where in a picture a question matches. */
export const where = async (asked, signal) => (await post("v1/where", asked, signal)).json();
/** The lines of words that stand in a picture. */
export const words = async (hit, index) => (await (await answer(address(hit, "words", { index }).slice(root.length))).json()).lines;
/** The shots of a video. */
export const views = async (hit, index) => (await (await answer(address(hit, "views", { index }).slice(root.length))).json()).views;
export const search = async (question, signal) => (await post("v1/gallery", question, signal)).json();
export const rows = async (question) => (await post("v1/gallery/rows", question)).json();
export const picture = async (id, index, content) => (await get(`v1/images/${id}`, { index, content })).json();
export const exposure = async (hit, index) => (await answer(address(hit, "exposure", { index }).slice(root.length))).json();
export const status = async () => (await get("v1/status")).json();
export const skipped = async (index, most) => (await get("v1/skipped", { index, most })).json();
export const facets = async (question, signal) => (await post("v1/gallery/facets", question, signal)).json();
/** Where the hits are on a map of likeness: places 0..1. */
export async function alike(question, signal) {
  const { x, y, ...rest } = await (await post("v1/gallery/map", question, signal)).json();
  return { ...rest, x: Float64Array.from(x, (one) => one / 10000), y: Float64Array.from(y, (one) => one / 10000) };
}
/** Where the hits were taken. */
export const earth = async (question, signal) => (await post("v1/gallery/earth", question, signal)).json();
export const suggest = async (asked, signal) => (await post("v1/suggest", asked, signal)).json();
export const searches = async (index) => (await get("v1/searches", { index })).json();
export const saveSearch = async (asked) => (await post("v1/searches", asked)).json();
export const renameSearch = async (asked) => (await post("v1/searches/rename", asked)).json();
export const removeSearch = async (asked) => (await post("v1/searches/remove", asked)).json();
export const start = async () => (await get("v1/start")).json();
export const startIndexing = async () => (await post("v1/start/index", {})).json();
export const stopIndexing = async () => (await post("v1/start/stop", {})).json();
export const lookAgain = async () => (await post("v1/start/look", {})).json();
export const nameFolder = async (folder) => (await post("v1/start/folder", { folder })).json();
export const openKnown = async (id) => (await post("v1/start/open", { id })).json();
export const keepConcept = async (asked) => (await post("v1/concepts", asked)).json();
export const exported = (asked, signal) => post("v1/export", asked, signal);

/** The vector of a picture file. */
export async function embed(file, index) {
  const form = new FormData();
  form.append("image", file, "picture");
  if (index) form.append("index", index);
  const answered = await (await answer("v1/embed/upload", { method: "POST", body: form })).json();
  return answered.vectors[0];
}

/** What an address carries of a picture's content: the server answers with this picture or with none. */
export const contentOf = (hit) => hit.content_hash?.slice(0, 16) ?? null;

function address(hit, kind, given) {
  const content = contentOf(hit);
  const all = content ? { ...given, content } : given;
  return `${root}v1/images/${hit.row_id}/${kind}?${new URLSearchParams(Object.entries(all).filter(([, value]) => value))}`;
}
export const thumbnail = (hit, index, size) => address(hit, "thumbnail", { index, size });
export const original = (hit, index) => address(hit, "original", { index });
/** The clip of a motion photo. */
export const clip = (hit, index) => address(hit, "clip", { index });
