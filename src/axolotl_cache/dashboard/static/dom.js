// Elements made by hand, never from markup: what users wrote can only ever become text.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "css") for (const [key, to] of Object.entries(value)) element.style.setProperty(key, to);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

// Says something to screen readers, without moving the focus.
export function say(text) {
  document.getElementById("say").textContent = text;
}

// A table with a caption; `columns`: [{head, cell(row), number, key}].
export function table(caption, columns, rows, { hideCaption = true, empty = "Nothing yet." } = {}) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: hideCaption ? "hidden" : "" }, caption),
      h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col", class: c.number ? "number" : "" }, c.head)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, columns.map((c, n) =>
        h(n ? "td" : "th", { scope: n ? null : "row", class: [c.number ? "number" : "", c.wide ? "wide" : ""].join(" ").trim() || null, "data-head": c.head }, c.cell(row))))))));
}

// What is only said, never shown.
export const hidden = (text) => h("span", { class: "hidden" }, text);
