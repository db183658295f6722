// The machines and what they use.

import { h, table } from "./dom.js";
import * as format from "./format.js";
import { bar, card, empty } from "./parts.js";

export class Nodes {
  title = "Nodes";
  seconds = 5;

  constructor() {
    this.list = h("div");
    this.element = h("div", {}, h("div", { class: "page-head" }, h("h1", {}, "Nodes")), this.list);
  }

  path() { return "nodes"; }

  update(data) {
    if (!data.nodes.length) { this.list.replaceChildren(empty("Nothing is watched", "Answers come from upstream; its own metrics have its resources.")); return ""; }
    const lines = (pairs) => (pairs.length ? h("ul", { class: "lines" }, pairs.map(([name, figure]) => h("li", {}, h("span", {}, `${name} `), figure))) : "–");
    const gauge = (label, value, whole, show) => h("div", { class: "gauge" }, bar(label, [{ name: label, tone: value / whole > 0.9 ? "failed" : "brand", value }], whole, show), h("span", {}, show(value)));
    this.list.replaceChildren(card("Machines", "One row for each that serves.", table("Nodes", [
      { head: "Node", cell: (n) => h("span", { class: "named" }, h("i", { class: `key tone-${n.is_up ? "exact" : "failed"}` }), n.name, h("span", { class: "hidden" }, n.is_up ? ", up" : ", down")) },
      { head: "Device", cell: (n) => n.device },
      { head: "CPU", cell: (n) => (n.cpu_share === null ? "–" : gauge("CPU", n.cpu_share, 1, (v) => `${format.percent(v)} of ${n.cores}`)) },
      { head: "Memory", cell: (n) => (n.memory_bytes === null ? "–" : gauge("Memory", n.memory_bytes, n.total_memory_bytes, (v) => `${format.bytes(v)} of ${format.bytes(n.total_memory_bytes)}`)) },
      { head: "GPU", cell: (n) => (n.gpu_memory_bytes === null ? "–" : gauge("GPU memory", n.gpu_memory_bytes, n.gpu_total_bytes, (v) => `${format.bytes(v)} of ${format.bytes(n.gpu_total_bytes)}`)) },
      { head: "Hits", cell: (n) => lines(format.TIERS.filter((tier) => n.hit_rates[tier.key]).map((tier) => [tier.name, format.percent(n.hit_rates[tier.key])])) },
      { head: "Caches", cell: (n) => lines((n.tiers || []).map((tier) => [tier.title, tier.held_bytes === null ? "not reached" : format.bytes(tier.held_bytes)])) },
      { head: "Running", number: true, cell: (n) => format.whole(n.running) },
      { head: "Waiting", number: true, cell: (n) => format.whole(n.waiting) },
      { head: "Answered", number: true, cell: (n) => format.count(n.requests) },
      { head: "Up for", number: true, cell: (n) => format.seconds(Math.floor(n.uptime_seconds)) },
      { head: "Version", cell: (n) => n.version },
    ], data.nodes)));
    return "";
  }
}
