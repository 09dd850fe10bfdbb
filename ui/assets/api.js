// Talks to the HTTP API. Knows nothing of the page.

/** Where the server's paths begin: "/", or "/photos/" behind a proxy. This file is at ui/HASH/ from there. */
export const root = new URL("../../", import.meta.url).pathname;

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.message || `the server answered ${status}`);
    this.status = status;
    this.kind = problem.error || "";
    this.position = problem.position;
  }
}

async function answer(path, options) {
  let response;
  try {
    response = await fetch(root + path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { message: "the server does not respond. Is clipsearch still running?" });
  }
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

export const search = async (question, signal) => (await post("v1/gallery", question, signal)).json();
export const picture = async (id, index) => (await get(`v1/images/${id}`, { index })).json();
export const status = async () => (await get("v1/status")).json();
export const skipped = async (index, most) => (await get("v1/skipped", { index, most })).json();
export async function map(index) {
  const { ids, x, y, total } = await (await get("v1/map", { index })).json();
  return { ids, total, x: Float32Array.from(x, (one) => one / 10000), y: Float32Array.from(y, (one) => one / 10000) };
}
export const keepConcept = async (index, name, like, unlike) => (await post("v1/concepts", { index, name, like, unlike })).json();
export const exported = async (index, ids, form) => (await post("v1/export", { index, ids, form })).blob();

/** The vector of a picture file. */
export async function embed(file, index) {
  const form = new FormData();
  form.append("image", file, "picture");
  if (index) form.append("index", index);
  const answered = await (await answer("v1/embed/upload", { method: "POST", body: form })).json();
  return answered.vectors[0];
}

export function thumbnail(id, index, size) {
  return `${root}v1/images/${id}/thumbnail?${new URLSearchParams(index ? { index, size } : { size })}`;
}
