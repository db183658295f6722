// The attention mask of one request: which keys each token of the prompt sees, and what was not computed.

import { h, s } from "./dom.js";
import * as format from "./format.js";

const LANE = 9;
const PAD = 1;

// mask: ranges from the API; a square of all tokens, so that what was skipped can be seen, too.
export function maskPicture(mask, promptTokens) {
  const cached = promptTokens - mask.rows;
  const size = 440;
  const scale = (size - 2 * PAD) / promptTokens;
  const top = LANE + 8;
  const x = (token) => PAD + token * scale;
  const y = (token) => top + token * scale;
  const rest = mask.rests[0];
  const rows = [y(cached), y(promptTokens)];
  const picture = s("svg", { class: "mask", viewBox: `0 0 ${size} ${size + top}`, role: "img", "aria-labelledby": "mask-says" },
    s("defs", {}, s("pattern", { id: "hatch", width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      s("rect", { class: "mask-skipped", width: 7, height: 7 }), s("line", { class: "mask-hatch", x1: 0, y1: 0, x2: 0, y2: 7 }))),
    s("rect", { class: "mask-paper", x: PAD, y: y(0), width: promptTokens * scale, height: promptTokens * scale }),
    cached ? s("path", { fill: "url(#hatch)", d: `M${x(0)} ${y(0)}L${x(cached)} ${y(cached)}H${x(0)}z` }, s("title", {}, `${format.whole(cached)} tokens not computed: their keys and values were there`)) : null,
    rest.reused.map(([from, to]) => s("rect", { class: "mask-reused", x: x(from), y: rows[0], width: (to - from) * scale, height: rows[1] - rows[0] }, s("title", {}, `reused: tokens ${from} to ${to - 1} are seen by ${mask.rows} tokens`))),
    s("path", { class: "mask-computed", d: `M${x(cached)} ${rows[0]}L${x(promptTokens)} ${rows[1]}H${x(cached)}z` }, s("title", {}, `${format.whole(mask.rows)} tokens computed`)),
    grid(mask, promptTokens, scale, x, y, top),
    mask.blocks.map((block) => s("rect", { class: block.is_reused ? "mask-reused" : "mask-computed", x: x(block.first_token), y: 0, width: Math.max((block.columns[1] - block.columns[0]) * scale - (scale * mask.block_size > 5 ? 1 : 0), 0.5), height: LANE })),
    s("rect", { class: "mask-frame", x: PAD, y: y(0), width: promptTokens * scale, height: promptTokens * scale }));
  const all = (promptTokens * (promptTokens + 1)) / 2;
  const says = `Of ${format.whole(promptTokens)} prompt tokens, ${format.whole(cached)} were reused in ${format.whole(cached / mask.block_size)} blocks and ${format.whole(mask.rows)} computed: ${format.whole(mask.cells)} of ${format.whole(all)} pairs of a token and a key it sees, ${format.percent(mask.cells / all)}.`;
  const key = (tone, text) => h("li", {}, h("i", { class: `key mask-key-${tone}` }), text);
  return h("figure", { class: "mask-figure" }, picture,
    h("figcaption", {},
      h("ul", { class: "legend" },
        key("reused", `reused block (${mask.block_size} tokens): seen, not computed again`), key("computed", "computed now"),
        cached ? key("skipped", "not computed at all") : null, key("masked", "masked: later tokens")),
      h("p", { id: "mask-says" }, says),
      h("p", { class: "muted" }, "A row is a token, a column a key; the strip above shows the blocks.")));
}

function grid(mask, promptTokens, scale, x, y, top) {
  if (mask.block_size * scale < 6) return null;
  const lines = [];
  for (let token = mask.block_size; token < promptTokens; token += mask.block_size) {
    lines.push(`M${x(token).toFixed(1)} ${top}V${y(promptTokens)}M${x(0)} ${y(token).toFixed(1)}H${x(promptTokens)}`);
  }
  return s("path", { class: "mask-grid", d: lines.join("") });
}
