// The front page: what the cache does, in one look.

import { TimeChart, spark } from "./chart.js";
import { h, table } from "./dom.js";
import * as format from "./format.js";
import { bar, card, empty } from "./parts.js";

const SPANS = [[900, "15 min"], [3600, "1 hour"], [21600, "6 hours"], [86400, "24 hours"], [604800, "7 days"]];

export class Overview {
  title = "Overview";
  seconds = 5;

  constructor(_, again) {
    this.span = 3600;
    try { this.span = Number(sessionStorage.getItem("axolotl-span")) || 3600; } catch { /* the default */ }
    this.hero = h("div", { class: "hero" });
    this.tiles = h("div", { class: "tiles" });
    this.served = new TimeChart({ id: "served", title: "Requests by where the answer came from", kind: "bars", show: format.whole });
    this.ttft = new TimeChart({ id: "ttft", title: "Median time to first token", kind: "lines", scale: "log", show: format.seconds });
    this.tokens = new TimeChart({ id: "tokens", title: "Prompt tokens, reused and computed", kind: "bars", show: format.count });
    this.saved = new TimeChart({ id: "saved", title: "Computing time saved", kind: "bars", show: format.seconds });
    this.latency = h("div");
    this.memory = h("div");
    this.misses = h("div");
    this.tenants = h("div", { class: "wide-card" });
    const spans = h("div", { class: "spans", role: "group", "aria-label": "Time shown" }, SPANS.map(([value, name]) =>
      h("button", { type: "button", "data-span": value, "aria-pressed": String(value === this.span), onclick: () => this.choose(value, again) }, name)));
    this.spans = spans;
    this.body = h("div", { class: "grid-cards" },
      card("Where answers came from", "Requests by the tier that served them.", this.served.element),
      card("Time to first token", "Medians, logarithmic. Dashed: the mean, had everything been computed.", this.ttft.element),
      card("Prompt tokens", "Reused from a cache, and computed by the model.", this.tokens.element),
      card("Computing saved", "By stored answers: what they took. Behind a prefix: an estimate.", this.saved.element),
      card("Memory against its bound", "What each tier holds now.", this.memory),
      card("Why the response cache missed", "Since the start, by reason.", this.misses),
      h("div", { class: "wide-card" }, card("Speed by tier", "Of the requests in this time.", this.latency)),
      this.tenants);
    this.none = h("div");
    this.element = h("div", {}, h("div", { class: "page-head" }, h("h1", {}, "Overview"), spans), this.hero, this.tiles, this.none, this.body);
  }

  path() { return `overview?span=${this.span}`; }

  choose(value, again) {
    this.span = value;
    try { sessionStorage.setItem("axolotl-span", value); } catch { /* for this page alone */ }
    for (const button of this.spans.children) button.setAttribute("aria-pressed", String(Number(button.dataset.span) === value));
    again();
  }

  update(data) {
    const { summary, series } = data;
    const nothing = !data.since_start.requests && !data.since_start.failures;
    this.none.replaceChildren(...(nothing ? [empty("No requests yet", "Send one to /v1/chat/completions, and it shows up here.")] : []));
    this.hero.replaceChildren(...(nothing ? [] : this.heroParts(data)));
    this.tiles.replaceChildren(...(nothing ? [] : this.tileParts(data)));
    this.drawCharts(data);
    this.latency.replaceChildren(latencyTable(data));
    this.memory.replaceChildren(memory(data));
    this.misses.replaceChildren(misses(data));
    this.tenants.replaceChildren(...(data.tenants.length ? [card("Tenants", "Since the start. Only operators see this.", tenants(data.tenants))] : []));
    this.tenants.hidden = !data.tenants.length;
    return summary.requests ? `${summary.requests} requests, ${format.percent(summary.hits / summary.requests)} from a cache` : "";
  }

  heroParts({ summary, baseline }) {
    const rate = summary.requests ? summary.hits / summary.requests : null;
    const stored = ["hit-exact", "hit-semantic", "hit-session"].reduce((sum, key) => sum + (summary.served[key] || 0), 0);
    const prefix = summary.served["hit-prefix"] || 0;
    const faster = ratio(summary.ttft_mean_seconds_without, summary.ttft_mean_seconds);
    const ended = ratio(summary.total_mean_seconds_without, summary.total_mean_seconds);
    const share = (n) => format.percent(n / summary.requests);
    return [
      h("div", { class: "hero-main" },
        h("p", { class: "hero-figure" }, format.percent(rate), h("span", {}, "of requests used a cache")),
        bar("Requests", format.TIERS.map((tier) => ({ name: tier.name, tone: tier.tone, value: summary.served[tier.key] || 0 })), summary.requests, format.whole),
        h("p", { class: "hero-note" }, summary.requests
          ? [h("b", {}, share(stored)), " were answered without the model, ", h("b", {}, share(prefix)), " began behind a reused prefix, ", h("b", {}, share(summary.served.miss || 0)), " were computed in full."]
          : "No requests in this time.")),
      versus("Time to first token", "mean", summary.ttft_mean_seconds, summary.ttft_mean_seconds_without, faster,
        summary.ttft_mean_seconds_without === null ? "Too few answers were computed to say what it would be without." : `Without: learned from ${format.count(baseline.computed)} computed answers.`),
      versus("Whole answer", "mean", summary.total_mean_seconds, summary.total_mean_seconds_without, ended, "Without: with what was saved added back."),
    ];
  }

  tileParts({ summary, series, since_start: since, currency, running, waiting }) {
    const sum = (pick) => series.map((point) => Object.values(point.served).reduce((total, tier) => total + pick(tier), 0));
    const whole = since.money ? Object.entries(since.money) : [];
    const tiles = [
      tile("Requests", format.count(summary.requests), summary.failures ? `${format.count(summary.failures)} failed` : "none failed", spark(sum((t) => t.requests), "brand")),
      tile("Prompt tokens reused", format.percent(summary.prompt_tokens ? summary.cached_tokens / summary.prompt_tokens : null), `${format.count(summary.cached_tokens)} of ${format.count(summary.prompt_tokens)}`, spark(sum((t) => t.cached_tokens), "prefix")),
      tile("Tokens saved", format.count(summary.saved_tokens), `${format.count(since.saved_tokens)} since the start`, spark(sum((t) => t.saved_tokens), "exact")),
      tile("Computing saved", format.seconds(summary.saved_seconds), `${format.seconds(since.saved_seconds)} since the start`, spark(sum((t) => t.saved_seconds), "exact")),
      whole.length
        ? tile("Money saved", format.money(summary.saved_money, whole[0][0]), `${format.money(whole[0][1], whole[0][0])} since the start`, spark(sum((t) => t.saved_money), "session"))
        : tile("Money saved", "–", "give prices in the YAML to see it", null),
      tile("Now", `${format.whole(running)} running`, `${format.whole(waiting)} waiting`, null),
    ];
    return tiles;
  }

  drawCharts({ series, step_seconds: step, span_seconds: span, summary }) {
    const points = series.map((point) => point.t);
    const base = { points, step, span };
    const tiers = format.TIERS.filter((tier) => series.some((point) => point.served[tier.key]));
    const each = (key, pick) => series.map((point) => (point.served[key] ? pick(point.served[key]) : null));
    this.served.update({ ...base,
      layers: tiers.map((tier) => ({ name: tier.name, tone: tier.tone, values: each(tier.key, (t) => t.requests) }))
        .concat(series.some((p) => p.failures) ? [{ name: "failed", tone: "failed", values: series.map((p) => p.failures || null) }] : []),
      label: `Requests over time. ${tiers.map((tier) => `${tier.name} ${summary.served[tier.key]}`).join(", ")}.` });
    this.ttft.update({ ...base,
      layers: tiers.map((tier) => ({ name: tier.name, tone: tier.tone, values: each(tier.key, (t) => t.ttft) }))
        .concat([{ name: "without the cache, estimated", tone: "without", dashed: true, values: series.map((p) => p.ttft_without) }]),
      label: `Median time to first token by tier, over time. Mean ${format.seconds(summary.ttft_mean_seconds)}, without the cache an estimated ${format.seconds(summary.ttft_mean_seconds_without)}.` });
    const total = (pick) => series.map((point) => Object.values(point.served).reduce((sum, t) => sum + pick(t), 0) || null);
    this.tokens.update({ ...base,
      layers: [
        { name: "computed", tone: "miss", values: total((t) => t.prompt_tokens - t.cached_tokens) },
        { name: "reused", tone: "prefix", values: total((t) => t.cached_tokens) }],
      label: `Prompt tokens over time. ${format.count(summary.cached_tokens)} reused of ${format.count(summary.prompt_tokens)}.` });
    const saving = tiers.filter((tier) => tier.key !== "miss");
    this.saved.update({ ...base,
      layers: saving.map((tier) => ({ name: `by ${tier.name}`, tone: tier.tone, values: each(tier.key, (t) => t.saved_seconds || null) })),
      label: `Seconds of computing saved over time, ${format.seconds(summary.saved_seconds)} together.` });
  }
}

const ratio = (without, having) => (without && having ? without / having : null);

function versus(title, kind, having, without, faster, note) {
  const top = Math.max(having || 0, without || 0) || 1;
  const line = (name, value, tone) => h("div", { class: "versus-line" }, h("span", {}, name),
    h("div", { class: "track" }, h("span", { class: `tone-${tone}`, css: { width: `${value ? Math.max((value / top) * 100, 1) : 0}%` } })), h("b", {}, format.seconds(value)));
  return h("div", { class: "versus" },
    h("p", { class: "versus-title" }, title, h("small", {}, kind)),
    h("p", { class: "versus-figure" }, faster ? [format.times(faster), h("span", {}, faster >= 1 ? "faster" : "as fast")] : "–"),
    line("with cache", having, "brand"), line("without", without, "without"), h("p", { class: "versus-note" }, note));
}

function tile(name, figure, note, picture) {
  return h("div", { class: "tile" }, h("p", { class: "tile-name" }, name), h("p", { class: "tile-figure" }, figure), h("p", { class: "tile-note" }, note), picture);
}

function latencyTable({ latency }) {
  const rows = format.TIERS.filter((tier) => latency[tier.key]).map((tier) => ({ tier, ...latency[tier.key] }));
  return table("Speed by tier", [
    { head: "Served by", cell: (row) => h("span", { class: "named" }, h("i", { class: `key tone-${row.tier.tone}` }), row.tier.name) },
    { head: "Requests", number: true, cell: (row) => format.count(row.requests) },
    { head: "Prompt", number: true, cell: (row) => `${format.count(row.prompt_tokens_mean)} tok` },
    { head: "TTFT p50", number: true, cell: (row) => format.seconds(row.ttft.p50) },
    { head: "p95", number: true, cell: (row) => format.seconds(row.ttft.p95) },
    { head: "p99", number: true, cell: (row) => format.seconds(row.ttft.p99) },
    { head: "Answer p50", number: true, cell: (row) => format.seconds(row.total.p50) },
    { head: "Per token", number: true, cell: (row) => format.seconds(row.tpot.p50) },
  ], rows, { empty: "No requests in this time." });
}

function memory({ tiers }) {
  if (!tiers.length) return h("p", { class: "empty" }, "Nothing is watched: answers come from upstream.");
  return h("ul", { class: "meters" }, tiers.map((tier) => {
    if (!tier.is_up) return h("li", {}, h("div", { class: "meter-head" }, h("span", {}, tier.title), h("b", {}, "can't be reached")));
    const byBytes = tier.max_bytes !== null;
    const share = byBytes ? tier.held_bytes / (tier.max_bytes || 1) : tier.max_entries ? tier.entries / tier.max_entries : null;
    const bound = byBytes ? `of ${format.bytes(tier.max_bytes)}` : tier.max_entries ? `${format.whole(tier.entries)} of ${format.whole(tier.max_entries)} answers` : "no bound";
    const went = [tier.pinned_bytes ? `${format.bytes(tier.pinned_bytes)} pinned` : "", tier.leased_bytes ? `${format.bytes(tier.leased_bytes)} held by sessions` : "", tier.evicted ? `${format.count(tier.evicted)} evicted` : "", tier.expired ? `${format.count(tier.expired)} expired` : "", tier.refused ? `${format.count(tier.refused)} refused` : ""].filter(Boolean).join(" · ");
    const said = `${tier.title}: ${format.bytes(tier.held_bytes)}, ${bound}${share === null ? "" : `, ${format.percent(share)}`}`;
    return h("li", {},
      h("div", { class: "meter-head" }, h("span", {}, tier.title), h("b", {}, format.bytes(tier.held_bytes)), h("span", {}, bound)),
      h("div", { class: `meter${share > 0.9 ? " full" : ""}`, role: "img", "aria-label": said },
        share === null ? null : h("span", { css: { width: `${Math.min(share, 1) * 100}%` } }),
        byBytes && tier.pinned_bytes ? h("i", { css: { width: `${Math.min(tier.pinned_bytes / tier.max_bytes, 1) * 100}%` } }) : null),
      h("p", { class: "meter-note" }, share === null ? "" : `${format.percent(share)} full`, went ? `${share === null ? "" : " · "}${went}` : ""));
  }));
}

const REASONS = {
  never_seen: "asked for the first time", expired: "its time was up", evicted: "evicted: no room", invalidated: "invalidated",
  sampled: "sampled without a seed", bypassed: "the request wanted a new answer", too_old: "older than the request accepts",
  reported_wrong: "reported as wrong", other: "another reason",
};

function misses({ misses: found, failures }) {
  const rows = Object.entries(found);
  const failed = Object.entries(failures).filter(([, n]) => n);
  if (!rows.length && !failed.length) return h("p", { class: "empty" }, "It has not missed yet.");
  const top = Math.max(...rows.map(([, n]) => n), 1);
  return h("div", {},
    h("ul", { class: "ranks" }, rows.map(([reason, n]) => h("li", {}, h("span", {}, REASONS[reason] || reason), h("b", {}, format.count(n)),
      h("div", { class: "track", "aria-hidden": "true" }, h("span", { class: "tone-miss", css: { width: `${(n / top) * 100}%` } }))))),
    failed.length ? h("p", { class: "failed-line" }, "Without an answer: ", failed.map(([reason, n], at) => [at ? ", " : "", h("b", {}, format.count(n)), ` ${reason}`])) : null);
}

function tenants(rows) {
  return table("Tenants", [
    { head: "Tenant", cell: (row) => row.tenant },
    { head: "Requests", number: true, cell: (row) => format.count(row.requests) },
    { head: "From a cache", number: true, cell: (row) => format.percent(row.requests ? row.hits / row.requests : null) },
    { head: "Tokens reused", number: true, cell: (row) => format.percent(row.prompt_tokens ? row.cached_tokens / row.prompt_tokens : null) },
    { head: "Tokens saved", number: true, cell: (row) => format.count(row.saved_tokens) },
    { head: "Failed", number: true, cell: (row) => format.count(row.failures) },
  ], rows);
}
