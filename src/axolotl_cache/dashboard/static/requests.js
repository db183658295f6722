// The last requests, one a line.

import { h, table } from "./dom.js";
import * as format from "./format.js";
import { badge, bar, empty } from "./parts.js";

const FILTERS = [["", "All"], ["hit-exact", "Exact"], ["hit-prefix", "Prefix"], ["miss", "Computed"], ["failed", "Failed"]];

const STEP = 40;

export class Requests {
  title = "Requests";
  seconds = 3;

  constructor(_, again) {
    this.served = "";
    this.shown = STEP;
    this.list = h("div");
    this.more = h("button", { type: "button", class: "more", onclick: () => { this.shown += STEP; again(); } });
    this.note = h("p", { class: "page-note" });
    this.filters = h("div", { class: "spans", role: "group", "aria-label": "Show requests that were" }, FILTERS.map(([value, name]) =>
      h("button", { type: "button", "data-value": value, "aria-pressed": String(value === ""), onclick: () => this.choose(value, again) }, name)));
    this.element = h("div", {}, h("div", { class: "page-head" }, h("h1", {}, "Requests"), this.filters), this.note, h("section", { class: "card" }, this.list, this.more));
  }

  path() { return `requests?served=${encodeURIComponent(this.served)}`; }

  choose(value, again) {
    this.served = value;
    for (const button of this.filters.children) button.setAttribute("aria-pressed", String(button.dataset.value === value));
    again();
  }

  update(data) {
    this.note.textContent = data.kept ? `The last ${format.whole(data.kept)} are kept; ${format.whole(data.found)} of them ${this.served ? "are of this kind" : "are here"}, the newest ${format.whole(Math.min(this.shown, data.requests.length))} are shown.` : "";
    this.list.replaceChildren(data.kept ? table("Requests", [
      { head: "Request", cell: (row) => h("a", { href: `#/requests/${encodeURIComponent(row.id)}` }, row.id) },
      { head: "When", cell: (row) => format.timeExact(row.at) },
      { head: "Served by", cell: (row) => badge(row) },
      { head: "Prompt reused", cell: (row) => row.status !== "ok" ? "–" : h("div", { class: "reuse" },
        bar("Prompt", [{ name: "reused", tone: row.served === "hit-prefix" ? "prefix" : "exact", value: row.cached_tokens }, { name: "computed", tone: "miss", value: row.prompt_tokens - row.cached_tokens }], row.prompt_tokens, format.whole),
        h("span", {}, `${format.whole(row.cached_tokens)} / ${format.whole(row.prompt_tokens)}`)) },
      { head: "TTFT", number: true, cell: (row) => (row.status === "ok" ? format.seconds(row.ttft_seconds) : "–") },
      { head: "Total", number: true, cell: (row) => format.seconds(row.total_seconds) },
      { head: "Saved", number: true, cell: (row) => (row.saved_seconds ? format.seconds(row.saved_seconds) : "–") },
      { head: "Tenant", cell: (row) => row.tenant || "–" },
    ], data.requests.slice(0, this.shown), { empty: "None of this kind." }) : empty("No requests yet", "They are kept in memory, the last 1,000 of them."));
    const more = data.requests.length - this.shown;
    this.more.hidden = more <= 0;
    this.more.textContent = `Show ${Math.min(more, STEP)} more`;
    return "";
  }
}
