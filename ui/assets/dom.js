// Makes elements. Text is always set as text: nothing here, or in the page, parses markup.

const SVG = "http://www.w3.org/2000/svg";
const PATHS = {
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13M15.5 15.5 20 20",
  filter: "M4 6h16M7 12h10M10 18h4",
  picture: "M4 5h16v14H4zM4 16l4.5-5 4 4.5 2.5-2.5L20 17M15.5 9.2h.01",
  up: "M7 20H4v-9h3m0 9V11l4-7c1.5 0 2.3 1 2 2.5L12.5 10H18a2 2 0 0 1 2 2.4l-1.2 6A2 2 0 0 1 16.8 20z",
  down: "M17 4h3v9h-3m0-9v9l-4 7c-1.5 0-2.3-1-2-2.5l.5-3.5H6a2 2 0 0 1-2-2.4l1.2-6A2 2 0 0 1 7.2 4z",
  similar: "M8 4h12v12H8zM4 8v12h12",
  check: "M5 12.5 10 17.5 19 7",
  close: "M6 6l12 12M18 6 6 18",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  info: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M12 11v6M12 7.5h.01",
  play: "M8 5.5v13l10.5-6.5z",
  pause: "M8.5 5.5v13M15.5 5.5v13",
  moment: "M12 10a2 2 0 1 0 0 4 2 2 0 0 0 0-4M12 6.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11M12 3v.01M12 21v.01M3 12h.01M21 12h.01M5.6 5.6h.01M18.4 5.6h.01M5.6 18.4h.01M18.4 18.4h.01",
  whole: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
  file: "M7 3h7l4 4v14H7zM14 3v4h4M10 13h5M10 16.5h5",
  help: "M9 9.2a3 3 0 1 1 4.4 2.7c-.9.5-1.4 1-1.4 2.1M12 17.5h.01M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18",
  target: "M12 6a6 6 0 1 0 0 12 6 6 0 0 0 0-12M12 2v7M12 15v7M2 12h7M15 12h7",
  crop: "M6 2v16h16M2 6h16v16",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6 19 19M5 19l1.4-1.4M17.6 6.4 19 5",
  clock: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16M12 8v4.5l3 2",
  star: "M12 4.5l2.3 4.9 5.2.7-3.8 3.7.9 5.3-4.6-2.6-4.6 2.6.9-5.3-3.8-3.7 5.2-.7z",
  pen: "M4 20l1-4.5L16 4.5l3.5 3.5L8.5 19z",
  sketch: "M3 20c1.5-4 3-5.5 4.3-4.2s-.5 3.4.9 3.7 1.8-2 3.3-1.6M12 13.5l.8-3.2L18.6 4.5l2.4 2.4-5.8 5.8z",
  back: "M9 6L4.5 10.5 9 15M4.5 10.5H14a5 5 0 0 1 0 10h-3",
  bin: "M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13M10.5 10.5v6M13.5 10.5v6",
  link: "M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.7-5.7l-1.2 1.2M14 10a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.7 5.7l1.2-1.2",
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "cs-icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/** make("button.cs-x", {title: "…", onclick: …}, "text", child) */
export function make(kind, properties = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("aria-") || name === "role" || name === "for" || name === "list") element.setAttribute(name, value);
    else if (name === "dataset") Object.assign(element.dataset, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const button = (kind, name, title, onclick, text) =>
  make(`button.${kind}`, { type: "button", title, "aria-label": text ? undefined : title, onclick }, name ? icon(name) : null, text);

/** A name that may hold halves of surrogate pairs (bytes that are no UTF-8), so that it can be shown and sent. */
export const shown = (name) => name.replace(/[\ud800-\udbff][\udc00-\udfff]|[\ud800-\udfff]/g, (s) => (s.length > 1 ? s : "\ufffd"));
