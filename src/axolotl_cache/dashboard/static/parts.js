// Pieces that several pages are made of.

import { h } from "./dom.js";
import * as format from "./format.js";

export function card(title, note, ...content) {
  const id = `card-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { class: "card", "aria-labelledby": id },
    h("div", { class: "card-head" }, h("h2", { id }, title), note ? h("p", {}, note) : null), content);
}

export function badge(row) {
  if (row.status !== "ok") return h("span", { class: "badge tone-failed" }, row.status);
  const tier = format.tierOf(row.served);
  return h("span", { class: `badge tone-${tier.tone}` }, tier.short);
}

// A bar of parts: [{name, tone, value}]; `whole` is its full length.
export function bar(label, parts, whole, show) {
  const said = parts.map((part) => `${part.name} ${show(part.value)}`).join(", ");
  return h("div", { class: "bar", role: "img", "aria-label": `${label}: ${said}` },
    parts.filter((part) => part.value > 0).map((part) =>
      h("span", { class: `tone-${part.tone}`, title: `${part.name}: ${show(part.value)}`, css: { width: `${Math.min(100, (part.value / (whole || 1)) * 100)}%` } })));
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter((pair) => pair && pair[1] !== null && pair[1] !== undefined && pair[1] !== "")
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

export function empty(title, ...lines) {
  return h("div", { class: "nothing" }, h("img", { src: "logo.svg", alt: "", width: 72, height: 72 }),
    h("h2", {}, title), lines.map((line) => h("p", {}, line)));
}
