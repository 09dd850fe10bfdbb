// The sentences of the page in the reader's language, and its numbers and dates. The server sends the messages of one
// language in the document: see ui/languages.py. Knows nothing of the page.

const { language, chosen, languages, messages } = JSON.parse(document.getElementById("clipsearch-messages").textContent);
export { chosen, language, languages };

const COOKIE = "clipsearch_language";
const YEAR_S = 365 * 24 * 3600;
const base = (tag) => tag.split("-")[0].toLowerCase();

/** How numbers and dates are written: as in the reader's region, where the browser says so for this language. */
export const locale = navigator.languages.find((tag) => base(tag) === base(language)) ?? language;

const numbers = new Intl.NumberFormat(locale);
const plurals = new Intl.PluralRules(language);
const either = new Intl.ListFormat(language, { type: "disjunction" });
export const number = (count) => numbers.format(count);

/** The message of a key with its parts put in. Where it has plural forms, the part `n` decides. */
export function t(key, parts = {}) {
  const message = messages[key];
  if (message === undefined) return key;
  const form = typeof message === "string" ? message : message[plurals.select(parts.n)] ?? message.other;
  return form.replace(/\{(\w+)\}/g, (_, name) => written(parts[name]));
}

export const knows = (key) => messages[key] !== undefined;

/** A sentence of the server, {code, parts}; null where it has none in this language. */
export const said = (sentence) => (sentence && knows(`said.${sentence.code}`) ? t(`said.${sentence.code}`, sentence.parts) : null);

/** Why a file was not read, which the server tells as a class and in English. */
export const skipReason = ({ status, reason }) => (language !== "en" && knows(`skipped.${status}`) ? t(`skipped.${status}`) : reason);

/** What the server tells in a few English words: a `thing` that pictures show, or why files were `left_out`. */
export function named(kind, english) {
  const key = `${kind}.${english.toLowerCase().replace(/\W+/g, "_")}`;
  return knows(key) ? t(key) : english;
}

const regions = new Intl.DisplayNames(language, { type: "region" });
/** A country by its code, which the server tells with its English name. */
export const country = (code, english) => (/^[A-Z]{2}$/.test(code ?? "") && language !== "en" ? regions.of(code) : english);

function written(part) {
  if (typeof part === "number") return number(part);
  if (Array.isArray(part)) return either.format(part);
  if (part?.code) return said(part) ?? part.english;
  return part ?? "";
}

/** Show the page in another language from now on; "" for the browser's. */
export function choose(tag, path) {
  const secure = location.protocol === "https:" ? "; secure" : "";
  document.cookie = `${COOKIE}=${tag}; path=${path}; max-age=${tag ? YEAR_S : 0}; samesite=lax${secure}`;
  location.reload();
}

// ---- numbers with units, and dates

const unit = (name, digits = 0, width = "short") =>
  new Intl.NumberFormat(locale, { style: "unit", unit: name, unitDisplay: width, maximumFractionDigits: digits, minimumFractionDigits: digits });
const BYTES = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"];
export function bytes(count) {
  let size = 0;
  while (count >= 1000 && size < BYTES.length - 1) { count /= 1000; size++; }
  return unit(BYTES[size], size && count < 10 ? 1 : 0, size ? "short" : "long").format(count);
}

const shares = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 });
export const share = (part) => shares.format(part);
/** How much of a run is done; all of it only when it is. */
export const percent = ({ done, total }) => share(Math.floor((100 * done) / total) / 100);

/** A time span for people. */
export function duration(seconds) {
  const whole = Math.round(seconds);
  const [large, small] = whole < 60 ? ["second"] : whole < 3600 ? ["minute", "second"] : ["hour", "minute"];
  const length = { second: 1, minute: 60, hour: 3600 };
  const rest = small ? ` ${unit(small).format(Math.floor((whole % length[large]) / length[small]))}` : "";
  return unit(large).format(Math.floor(whole / length[large])) + rest;
}

const moments = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
export const moment = (date) => moments.format(date);
const writtenMoments = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium", timeZone: "UTC" });
/** A moment of local time, wherever that was: "2023-05-17T10:20:30". */
export function localMoment(text) {
  const date = new Date(`${text}Z`);
  return Number.isNaN(date.valueOf()) ? text.replace("T", " ") : writtenMoments.format(date);
}
const months = new Intl.DateTimeFormat(locale, { month: "long", year: "numeric", timeZone: "UTC" });
export const monthName = (month) => months.format(new Date(`${month}-01T00:00:00Z`));
