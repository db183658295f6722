// One request: where its answer came from, what was reused, and why not more.

import { h } from "./dom.js";
import * as format from "./format.js";
import { maskPicture } from "./mask.js";
import { badge, card, facts } from "./parts.js";

export class RequestPage {
  seconds = 0; // what is over does not change

  constructor(id) {
    this.id = id;
    this.title = `Request ${id}`;
    this.body = h("div");
    this.element = h("div", {}, h("p", { class: "back" }, h("a", { href: "#/requests" }, "← Requests")),
      h("div", { class: "page-head" }, h("h1", {}, "Request ", h("code", {}, id))), this.body);
  }

  path() { return `requests/${encodeURIComponent(this.id)}`; }

  update(data) {
    const row = data.request;
    this.body.replaceChildren(
      headline(row),
      h("div", { class: "grid-cards" },
        card("Timing", "As measured; without the cache as estimated.", timing(row)),
        row.status === "ok" ? card("Why", "What each tier had to say.", why(row, data)) : null,
        data.mask ? card("Attention mask", "The 4D mask of the prompt, reused blocks in red.", maskPicture(data.mask, row.prompt_tokens)) : null,
        data.blocks ? h("div", { class: data.mask ? "" : "wide-card" }, card("The prompt, block by block", "Reused blocks red, computed ones blue.", prompt(data, row))) : null,
        h("div", { class: "wide-card" }, card("Details", "", details(row, data)))));
    return `${row.id}: ${format.tierOf(row.served).name}`;
  }
}

function headline(row) {
  const tier = format.tierOf(row.served);
  const words = {
    "hit-exact": ["A stored answer was served. ", "The model computed nothing."],
    "hit-semantic": ["A stored answer to a like question was served. ", "The model computed nothing."],
    "hit-session": ["The conversation's stored answer was served. ", "The model computed nothing."],
    "hit-prefix": [`${format.whole(row.cached_tokens)} of ${format.whole(row.prompt_tokens)} prompt tokens were reused. `, `The model computed the other ${format.whole(row.prompt_tokens - row.cached_tokens)}.`],
    miss: [`All ${format.whole(row.prompt_tokens)} prompt tokens were computed. `, "Nothing cached could be used."],
  }[row.served] || ["This request got no answer. ", row.detail || ""];
  const share = row.prompt_tokens ? row.cached_tokens / row.prompt_tokens : 0;
  return h("div", { class: "headline" }, badge(row),
    h("p", {}, h("b", {}, words[0]), words[1], row.age_seconds ? ` It was ${format.seconds(row.age_seconds)} old.` : ""),
    row.status === "ok" ? h("div", { class: "bar big", role: "img", "aria-label": `${format.percent(share)} of the prompt reused` },
      h("span", { class: row.served === "hit-prefix" ? "tone-reused" : `tone-${tier.tone}`, css: { width: `${share * 100}%` } }),
      h("span", { class: "tone-computed", css: { width: `${(1 - share) * 100}%` } })) : null);
}

function timing(row) {
  const without = row.total_seconds_without;
  const top = Math.max(row.total_seconds, without || 0) || 1;
  const part = (tone, name, value) => (value > 0 ? h("span", { class: `tone-${tone}`, title: `${name}: ${format.seconds(value)}`, css: { width: `${(value / top) * 100}%` } }) : null);
  const first = Math.max(row.ttft_seconds - row.queue_seconds, 0);
  const ok = row.status === "ok";
  return h("div", {},
    h("p", { class: "lane-name" }, "this request", h("b", {}, format.seconds(row.total_seconds))),
    h("div", { class: "bar tall", role: "img", "aria-label": `queue ${format.seconds(row.queue_seconds)}, to the first token ${format.seconds(first)}, to the end ${format.seconds(row.total_seconds - row.ttft_seconds)}` },
      part("queue", "waiting", row.queue_seconds), part("brand", "to the first token", first), part("decode", "writing", row.total_seconds - row.ttft_seconds)),
    ok && row.saved_seconds ? [h("p", { class: "lane-name" }, "without the cache", h("b", {}, format.seconds(without))),
      h("div", { class: "bar tall", role: "img", "aria-label": `without the cache about ${format.seconds(without)}` }, part("without", "without the cache", without))] : null,
    h("ul", { class: "legend" }, h("li", {}, h("i", { class: "key tone-queue" }), "waiting"), h("li", {}, h("i", { class: "key tone-brand" }), "to the first token"), h("li", {}, h("i", { class: "key tone-decode" }), "writing")),
    facts([
      ["Time to first token", format.seconds(row.ttft_seconds)],
      ok && row.ttft_seconds_without !== null ? ["… without the cache, estimated", format.seconds(row.ttft_seconds_without)] : null,
      ok ? ["Per token after it", format.seconds(row.tpot_seconds)] : null,
      ["In the queue", format.seconds(row.queue_seconds)],
      ok ? ["Saved", `${format.seconds(row.saved_seconds)}, ${format.whole(row.saved_tokens)} tokens${row.saved_money === null ? "" : `, ${format.money(row.saved_money, row.currency)}`}`] : null,
    ]));
}

function why(row, data) {
  const steps = [];
  const step = (name, did, ...says) => steps.push(h("li", { class: did }, h("b", {}, name), h("div", {}, says)));
  const isStored = row.served.startsWith("hit-") && row.served !== "hit-prefix";
  if (isStored) step("Response cache", "did", "had this very answer", row.age_seconds ? `, ${format.seconds(row.age_seconds)} old` : "", ".");
  else step("Response cache", "did-not", row.response_miss || "was not asked: it is off.");
  if (!isStored) {
    const miss = row.prefix_miss;
    step("Prefix cache", row.cached_tokens ? "did" : "did-not",
      row.cached_tokens ? `had the first ${format.whole(row.cached_tokens)} tokens. ` : "",
      miss ? [miss.reason.charAt(0).toUpperCase() + miss.reason.slice(1), ".", difference(miss, row, data.block_size)] : "");
    step("Model", "did", `computed ${format.whole(row.prompt_tokens - row.cached_tokens)} prompt tokens and wrote ${format.whole(row.completion_tokens)}.`);
    step("Stored for the next", row.not_stored ? "did-not" : "did", row.not_stored ? `no: ${row.not_stored}.` : "yes.");
  }
  return h("ol", { class: "steps" }, steps);
}

function difference(miss, row, blockSize) {
  if (miss.first_difference_tokens === null) return null;
  const lost = miss.first_difference_tokens - row.cached_tokens;
  return [
    h("p", {}, "First token that differs: ", h("b", {}, `number ${format.whole(miss.first_difference_tokens + 1)}`), " of ", format.whole(row.prompt_tokens), ".",
      lost > 0 ? ` ${format.whole(lost)} more agreed, but not a whole block of ${blockSize}.` : ""),
    miss.expected_text === null && miss.found_text === null ? null : h("dl", { class: "differs" },
      h("div", {}, h("dt", {}, "cached goes on"), h("dd", { class: "was" }, miss.expected_text || "")),
      h("div", {}, h("dt", {}, "this one has"), h("dd", { class: "is" }, miss.found_text || ""))),
  ];
}

function prompt(data, row) {
  const stored = row.served.startsWith("hit-") && row.served !== "hit-prefix";
  const spans = data.blocks.map((block, n) => {
    const title = `block ${n + 1}: tokens ${block.start + 1} to ${block.start + block.tokens}, ${stored ? "not looked at" : block.state}`;
    const classes = `block ${stored ? "plain" : block.state}`;
    if (block.same === undefined) return h("span", { class: classes, title }, block.text);
    return h("span", { class: classes, title }, h("span", { class: "same" }, block.same), h("mark", { title: "the first token that differs" }, block.text));
  });
  const reused = data.blocks.filter((block) => block.state === "reused").length;
  return h("div", {}, h("p", { class: "muted" }, stored ? "Served from the response cache, so that no block was looked at."
    : `${format.whole(reused)} of ${format.whole(data.blocks.length)} blocks reused.${data.blocks.some((b) => b.same !== undefined) ? " Underlined: agrees with a cached prompt, in a block that as a whole does not. Marked: from the first token that differs." : ""}`),
    h("div", { class: "prompt", tabindex: "0", role: "region", "aria-label": "The prompt's text" }, spans));
}

function details(row, data) {
  const sampling = data.sampling || {};
  return [facts([
    ["When", format.dateTime(row.at)], ["Tenant", row.tenant], ["Session", row.session], ["Route", row.route], ["Model", row.model], ["Node", row.node],
    ["Streamed", row.is_stream ? "yes" : "no"],
    ["Prompt", `${format.whole(row.prompt_tokens)} tokens`], ["Answer", `${format.whole(row.completion_tokens)} tokens`], ["Ended by", row.finish_reason],
    ["Temperature", sampling.temperature === undefined ? null : String(sampling.temperature)],
    ["Longest answer", sampling.max_new_tokens ? `${format.whole(sampling.max_new_tokens)} tokens` : null],
    ["Entry", row.key ? h("code", {}, row.key) : null], ["What happened", row.detail],
  ]), data.keeps_text ? null : h("p", { class: "muted" }, "Prompts are not kept here; the server's --show-prompts keeps the last ones in memory.")];
}
