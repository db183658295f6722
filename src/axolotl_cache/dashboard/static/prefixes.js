// The prefix tree: prompts from left to right, branches below one another.

import { h, s, table } from "./dom.js";
import * as format from "./format.js";
import { card, empty, facts } from "./parts.js";

const HEIGHT = 420;
const LEAST_FOR_TEXT = 15;
const LETTER = 6.3;

export class Prefixes {
  title = "Prefixes";
  seconds = 10;

  constructor() {
    this.sortBy = "hits";
    this.stage = h("div", { class: "tree" });
    this.chosen = h("div", { class: "chosen", "aria-live": "polite" });
    this.list = h("div");
    this.body = h("div", {});
    this.element = h("div", {}, h("div", { class: "page-head" }, h("h1", {}, "Prefixes")), this.body);
    this.cards = h("div", {},
      card("The prefix tree", "Prompts run from left to right; prompts that begin alike share a stem. Height: memory. Colour: how often it was reused.", this.stage, this.chosen),
      card("Largest and hottest prefixes", "", this.list));
    this.sorts = h("div", { class: "spans", role: "group", "aria-label": "Sort by" },
      [["hits", "Hottest"], ["subtree_blocks", "Largest"], ["age_seconds", "Latest"]].map(([key, name]) =>
        h("button", { type: "button", "data-key": key, "aria-pressed": String(key === this.sortBy), onclick: () => this.sort(key) }, name)));
    this.cards.querySelectorAll(".card-head")[1].append(this.sorts);
    new ResizeObserver(([entry]) => { const width = Math.floor(entry.contentRect.width); if (width && width !== this.width) { this.width = width; this.draw(); } }).observe(this.stage);
  }

  path() { return "prefixes"; }

  sort(key) {
    this.sortBy = key;
    for (const button of this.sorts.children) button.setAttribute("aria-pressed", String(button.dataset.key === key));
    this.drawList();
  }

  update(data) {
    this.data = data;
    const isEmpty = !data.prefixes.length;
    const now = isEmpty ? empty("No prefixes yet", "Whole blocks of prompts are kept as soon as one was computed.") : this.cards;
    if (this.body.firstChild !== now) this.body.replaceChildren(now);
    if (!isEmpty) { this.draw(); this.drawList(); if (this.picked) this.choose(this.picked.id); }
    return `${data.prefixes.length} runs`;
  }

  draw() {
    if (!this.data || !this.width) return;
    const { prefixes, block_size: size } = this.data;
    const byId = new Map(prefixes.map((p) => [p.id, { ...p, children: [] }]));
    const roots = [];
    for (const node of byId.values()) (byId.get(node.parent)?.children || roots).push(node);
    const end = Math.max(...prefixes.map((p) => p.start_tokens + p.blocks * size));
    const most = Math.max(...prefixes.map((p) => p.hits), 1);
    const x = (token) => (token / end) * this.width;
    const parts = [];
    const place = (nodes, top, height) => {
      const whole = nodes.reduce((sum, node) => sum + node.subtree_blocks, 0);
      let at = top;
      for (const node of [...nodes].sort((a, b) => b.hits - a.hits || b.subtree_blocks - a.subtree_blocks)) {
        const tall = (height * node.subtree_blocks) / whole;
        parts.push(this.run(node, { x: x(node.start_tokens), w: x(node.blocks * size), y: at, h: tall, heat: Math.log1p(node.hits) / Math.log1p(most) }));
        place(node.children, at, tall);
        at += tall;
      }
    };
    place(roots, 0, HEIGHT);
    const marks = ticks(end).map((token) => s("text", { x: x(token), y: HEIGHT + 16, "text-anchor": token ? (token > end * 0.96 ? "end" : "middle") : "start" }, token ? format.whole(token) : "token 0"));
    this.stage.replaceChildren(s("svg", { width: this.width, height: HEIGHT + 22, viewBox: `0 0 ${this.width} ${HEIGHT + 22}`, role: "img", "aria-label": `The prefix tree, ${prefixes.length} runs; the table below has the same.` }, parts, s("g", { class: "grid" }, marks)));
  }

  run(node, { x, w, y, h: tall, heat }) {
    const inner = { w: Math.max(w - 1.5, 0.8), h: Math.max(tall - (tall > 5 ? 1.5 : 0.3), 0.6) };
    const letters = Math.floor((inner.w - 12) / LETTER);
    const words = (node.text || `${format.whole(node.blocks)} blocks`).replace(/\s+/g, " ");
    const showsText = inner.h >= LEAST_FOR_TEXT && letters > 5;
    const group = s("g", { class: `run${node.is_pinned ? " pinned" : ""}${this.picked?.id === node.id ? " picked" : ""}`, onclick: () => this.choose(node.id), css: { "--heat": heat.toFixed(3) } },
      s("title", {}, `${words}\n${describe(node)}`),
      s("rect", { x, y, width: inner.w, height: inner.h, rx: Math.min(4, inner.h / 2, inner.w / 2) }),
      showsText ? s("text", { x: x + 7, y: y + Math.min(inner.h / 2 + 4, 18) }, words.slice(0, letters) + (words.length > letters ? "…" : "")) : null,
      showsText && inner.h > 36 ? s("text", { class: "sub", x: x + 7, y: y + 33 }, `${format.count(node.hits)} hits${node.is_pinned ? " · pinned" : ""}`.slice(0, letters)) : null);
    return group;
  }

  choose(id) {
    const node = this.data.prefixes.find((p) => p.id === id);
    this.picked = node;
    if (!node) { this.chosen.replaceChildren(); return; }
    const size = this.data.block_size;
    this.chosen.replaceChildren(h("div", { class: "chosen-box" },
      node.text ? h("p", { class: "prompt small" }, h("span", { class: "block reused" }, node.text), "…") : null,
      facts([
        ["Tokens", `${format.whole(node.start_tokens + 1)} to ${format.whole(node.start_tokens + node.blocks * size)}`], ["Hits", format.whole(node.hits)],
        ["Memory", `${format.bytes(node.blocks * node.block_bytes)} itself, ${format.bytes(node.subtree_blocks * node.block_bytes)} with all behind it`],
        ["Last used", node.is_pinned ? `${format.ago(node.age_seconds)}, pinned` : format.ago(node.age_seconds)], ["In use by", node.references ? `${format.whole(node.references)} running` : "nobody now"],
        ["Tenant", node.tenant === null ? "–" : node.tenant || "none"], ["Namespace", h("code", {}, node.namespace.slice(0, 12))]])));
    this.draw();
  }

  drawList() {
    const size = this.data.block_size;
    const order = [...this.data.prefixes].sort((a, b) => (this.sortBy === "age_seconds" ? a.age_seconds - b.age_seconds : b[this.sortBy] - a[this.sortBy]))
      .filter((p) => this.sortBy !== "hits" || p.hits || p.is_pinned).slice(0, 20);
    this.list.replaceChildren(table("Prefixes", [
      { head: "Begins with", wide: true, cell: (p) => h("button", { type: "button", class: "link", onclick: () => { this.choose(p.id); this.stage.scrollIntoView({ block: "center" }); } }, p.text ? p.text.replace(/\s+/g, " ").slice(0, 110) : `run ${p.id}`) },
      { head: "From token", number: true, cell: (p) => format.whole(p.start_tokens + 1) },
      { head: "Tokens", number: true, cell: (p) => format.whole(p.blocks * size) },
      { head: "Hits", number: true, cell: (p) => format.whole(p.hits) },
      { head: "Memory", number: true, cell: (p) => format.bytes(p.subtree_blocks * p.block_bytes) },
      { head: "Last used", number: true, cell: (p) => format.ago(p.age_seconds) },
      { head: "Pinned", cell: (p) => (p.is_pinned ? "pinned" : "–") },
      { head: "Tenant", cell: (p) => p.tenant || "–" },
    ], order));
  }
}

const describe = (node) => `${format.whole(node.hits)} hits, ${format.bytes(node.subtree_blocks * node.block_bytes)}${node.is_pinned ? ", pinned" : ""}`;

function ticks(end) {
  const raw = end / 5;
  const power = 10 ** Math.floor(Math.log10(raw));
  const each = [1, 2, 5, 10].map((m) => m * power).find((m) => m >= raw);
  const found = [];
  for (let token = 0; token <= end; token += each) found.push(token);
  return found;
}
