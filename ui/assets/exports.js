// Saves what is selected, and says how far it is.

import * as api from "./api.js";
import { make } from "./dom.js";
import { t } from "./messages.js";

const ENDINGS = { csv: "csv", paths: "txt", zip: "zip" };
const ENTRY = [0x50, 0x4b, 0x03, 0x04]; // begins each picture of an archive

/** Export pictures; `tell(done)` is told of an archive how many of them are in it. Returns the file's
 * content, and how many pictures have left the index. */
export async function download(asked, signal, tell) {
  const answer = await api.exported(asked, signal);
  const parts = [];
  const reader = answer.body.getReader();
  let done = 0, matched = 0;
  for (;;) {
    const { done: ended, value } = await reader.read();
    if (ended) break;
    parts.push(value);
    if (asked.form !== "zip") continue;
    for (let at = 0; at < value.length; at++) {
      if (!matched && (at = value.indexOf(ENTRY[0], at)) < 0) break;
      matched = value[at] === ENTRY[matched] ? matched + 1 : value[at] === ENTRY[0] ? 1 : 0;
      if (matched === ENTRY.length) { done++; matched = 0; }
    }
    tell(done);
  }
  return {
    blob: new Blob(parts, { type: answer.headers.get("content-type") }),
    leftOut: Number(answer.headers.get("x-clipsearch-left-out") ?? 0),
  };
}

export function save(blob, form) {
  const name = `clipsearch.${ENDINGS[form]}`;
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return name;
}

export const progress = (done, total) => t("export.preparing_of", { done: Math.min(done, total), n: total });
