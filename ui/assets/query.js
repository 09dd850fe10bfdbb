// The query text as controls see it: filters that stand for themselves, not in parentheses, not negated.
// What the controls do not understand stays as it was written.

import { filters } from "./tables.js";

const NAMES = Object.fromEntries(filters.flatMap(({ name, also }) => [name, ...also].map((one) => [one, name])));
const FILTER = new RegExp(`^(${Object.keys(NAMES).join("|")}):(.+)$`, "is");
const CLOSING = { '"': '"', "“": "”" };

/** The words of a query: [{text, start, end}], where quotations and parentheses hold together. */
export function words(query) {
  const found = [];
  let start = -1, depth = 0, quote = "";
  for (let at = 0; at <= query.length; at++) {
    const letter = query[at] ?? "";
    if (quote && letter) {
      if (letter === quote) quote = "";
      continue;
    }
    if (letter === "" || (/\s/.test(letter) && depth === 0)) {
      if (start >= 0) found.push({ text: query.slice(start, at), start, end: at });
      start = -1;
      continue;
    }
    const before = query[at - 1] ?? " ";
    if (start < 0) start = at;
    if (CLOSING[letter] && (/[\s:(+-]/.test(before) || at === start)) quote = CLOSING[letter];
    else if (letter === "(") depth++;
    else if (letter === ")" && depth) depth--;
  }
  return found;
}

function filterWords(query) {
  const all = words(query);
  return all.flatMap((word, n) => {
    const match = FILTER.exec(word.text);
    const joined = (other) => /^(not|or)$/i.test(other?.text ?? "");
    if (!match || joined(all[n - 1]) || /^or$/i.test(all[n + 1]?.text ?? "")) return [];
    return [{ ...word, field: NAMES[match[1].toLowerCase()], value: unquoted(match[2]) }];
  });
}

const unquoted = (value) => (/^(".*"|“.*”)$/s.test(value) ? value.slice(1, -1) : value);
export const quoted = (value) => (/[\s()"“”„]/.test(value) ? `"${value.replaceAll('"', "")}"` : value);

/** The filters of a query that controls can show, by field. The first of each field counts. */
export function filtersOf(query) {
  const found = {};
  for (const { field, value } of filterWords(query)) found[field] ??= value;
  return found;
}

/** Whether something in a query puts pictures in an order of likeness: it is not empty, nor filters alone. */
export const ranks = (query) => words(query).length > filterWords(query).length;

/** The query with this filter put in, changed, or (without a value) taken out. */
export function withFilter(query, field, value) {
  const old = filterWords(query).find((word) => word.field === field);
  const written = value ? `${field}:${quoted(value)}` : "";
  const text = old
    ? `${query.slice(0, old.start)}${written}${query.slice(old.end)}`
    : `${query.trimEnd()} ${written}`;
  return text.replace(/ {2,}/g, " ").trim();
}
