// What the server knows of filters and picture formats; it puts its tables into the document.

export const { filters, pictures } = JSON.parse(document.getElementById("clipsearch-tables").textContent);

/** Whether a file can be sent as a question, by its name or, as of pasted pictures, by its type. */
export function isPicture(file) {
  const ending = /\.([^./\\]+)$/.exec(file.name)?.[1].toLowerCase();
  return pictures.extensions.includes(ending) || pictures.types.includes(file.type);
}

/** What a file chooser offers. */
export const accepted = [...pictures.types, ...pictures.extensions.map((ending) => `.${ending}`)].join(",");
