// Charts over time, drawn as SVG: stacked bars, or lines. Each can be walked through with the arrow keys,
// says its values to screen readers, and has the same figures as a table.

import { h, s, say, table } from "./dom.js";
import * as format from "./format.js";

const HEIGHT = 208;
const LEFT = 54;
const RIGHT = 6;
const TOP = 10;
const BOTTOM = 24;
const GAP_STEPS = 8; // lines are drawn across so many slots without traffic

export class TimeChart {
  // kind: "bars" or "lines"; show: value -> text; scale: "linear" or "log"; max: upper end that is always there.
  constructor({ id, title, kind, show, axis = show, scale = "linear", max = 0, height = HEIGHT }) {
    Object.assign(this, { id, title, kind, show, axis, scale, max, height, at: null, width: 0 });
    this.plot = s("svg", { "aria-hidden": "true", focusable: "false", height });
    this.tip = h("div", { class: "tip", "aria-hidden": "true" });
    this.stage = h("div", { class: "stage", tabindex: "0", role: "img" }, this.plot, this.tip);
    this.legend = h("ul", { class: "legend" });
    this.rows = h("div");
    this.details = h("details", { class: "as-table", ontoggle: () => this.fillTable() },
      h("summary", {}, "As a table"), this.rows);
    this.element = h("div", { class: "chart" }, this.legend, this.stage, this.details);
    this.stage.addEventListener("pointermove", (event) => this.point(event));
    this.stage.addEventListener("pointerdown", (event) => this.point(event));
    this.stage.addEventListener("pointerleave", () => this.mark(null));
    this.stage.addEventListener("blur", () => this.mark(null));
    this.stage.addEventListener("keydown", (event) => this.walk(event));
    new ResizeObserver(([entry]) => {
      const width = Math.floor(entry.contentRect.width);
      if (width && width !== this.width) { this.width = width; this.draw(); }
    }).observe(this.stage);
  }

  // points: start times; layers: [{name, tone, values, dashed}], lowest first; label: what is read out for all.
  update({ points, step, span, layers, label }) {
    Object.assign(this, { points, step, span, label });
    this.layers = layers;
    this.stage.setAttribute("aria-label", `${label} Arrow keys read the values.`);
    this.legend.replaceChildren(...layers.map((layer) =>
      h("li", {}, h("i", { class: `key tone-${layer.tone}${layer.dashed ? " dashed" : ""}` }), layer.name)));
    this.draw();
    if (this.details.open) this.fillTable();
  }

  top() {
    const sums = this.points.map((_, n) => this.kind === "bars"
      ? this.layers.reduce((sum, layer) => sum + (layer.values[n] || 0), 0)
      : Math.max(0, ...this.layers.map((layer) => layer.values[n] || 0)));
    return Math.max(this.max, ...sums);
  }

  ticks() {
    const values = this.layers.flatMap((layer) => layer.values).filter((v) => v > 0);
    if (this.scale === "log") {
      const low = Math.floor(Math.log10(Math.min(...values, 0.1)));
      const high = Math.ceil(Math.log10(Math.max(...values, 0.2)));
      const every = Math.max(1, Math.ceil((high - low) / 5));
      const marks = [];
      for (let power = low; power <= high; power += every) marks.push(10 ** power);
      if (marks[marks.length - 1] < 10 ** high) marks.push(10 ** high);
      return marks;
    }
    const top = this.top() || 1;
    const raw = top / 4;
    const power = 10 ** Math.floor(Math.log10(raw));
    const each = [1, 2, 2.5, 5, 10].map((m) => m * power).find((m) => m >= raw * 0.999);
    const marks = [];
    for (let value = 0; value < top * 1.0001 + each * 0.999; value += each) marks.push(value);
    return marks;
  }

  draw() {
    if (!this.width || !this.points) return;
    const { width, height, plot } = this;
    const marks = this.ticks();
    const low = marks[0], high = marks[marks.length - 1];
    const inner = { w: width - LEFT - RIGHT, h: height - TOP - BOTTOM };
    const log = this.scale === "log";
    const y = (value) => {
      const share = log ? Math.log10(Math.max(value, low) / low) / Math.log10(high / low) : value / high;
      return TOP + inner.h * (1 - share);
    };
    const slot = inner.w / this.points.length;
    this.x = (n) => LEFT + slot * (n + 0.5);
    this.slot = slot;
    plot.setAttribute("width", width);
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.replaceChildren(
      s("g", { class: "grid" }, marks.map((value) => [
        s("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
        s("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, this.axis(value)),
      ])),
      s("g", { class: "grid" }, this.timeMarks(width)),
      this.kind === "bars" ? this.bars(y, slot) : this.lines(y),
      s("line", { class: "cross", y1: TOP, y2: height - BOTTOM, visibility: "hidden" }));
    this.mark(this.at);
  }

  timeMarks(width) {
    const wanted = Math.max(2, Math.min(6, Math.floor(width / 110)));
    const found = [];
    for (let n = 0; n < wanted; n += 1) {
      const place = Math.round((this.points.length - 1) * (n + 0.5) / wanted);
      found.push(s("text", { x: this.x(place), y: this.height - 6, "text-anchor": "middle" },
        format.time(this.points[place], this.span)));
    }
    return found;
  }

  bars(y, slot) {
    const wide = Math.max(slot - (slot > 4 ? 1.5 : 0.6), 0.8);
    const floors = this.points.map(() => 0);
    return s("g", {}, this.layers.map((layer) => {
      const path = [];
      layer.values.forEach((value, n) => {
        if (!value) return;
        const from = y(floors[n]), to = y(floors[n] + value);
        floors[n] += value;
        path.push(`M${(this.x(n) - wide / 2).toFixed(1)} ${from.toFixed(1)}V${to.toFixed(1)}h${wide.toFixed(1)}V${from.toFixed(1)}z`);
      });
      return s("path", { class: `fill-${layer.tone}`, d: path.join("") });
    }));
  }

  lines(y) {
    return s("g", {}, this.layers.map((layer) => {
      const path = [], dots = [];
      let last = null;
      layer.values.forEach((value, n) => {
        if (value === null || value === undefined) return;
        const joins = last !== null && n - last <= GAP_STEPS;
        path.push(`${joins ? "L" : "M"}${this.x(n).toFixed(1)} ${y(value).toFixed(1)}`);
        dots.push(s("circle", { cx: this.x(n), cy: y(value), r: layer.dashed ? 0 : 1.9 }));
        last = n;
      });
      return [
        s("path", { class: `line line-${layer.tone}${layer.dashed ? " dashed" : ""}`, d: path.join("") }),
        s("g", { class: `fill-${layer.tone}` }, dots),
      ];
    }));
  }

  point(event) {
    if (!this.slot) return;
    const x = event.clientX - this.stage.getBoundingClientRect().left;
    const n = Math.floor((x - LEFT) / this.slot);
    this.mark(n >= 0 && n < this.points.length ? n : null);
  }

  walk(event) {
    const last = this.points.length - 1;
    const from = this.at ?? last + 1;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (event.key === "Escape") return this.mark(null);
    if (to === undefined) return undefined;
    event.preventDefault();
    this.mark(Math.min(Math.max(to, 0), last));
    const values = this.layers.filter((l) => l.values[this.at]).map((l) => `${l.name} ${this.show(l.values[this.at])}`);
    return say(`${format.time(this.points[this.at], this.span)}: ${values.join(", ") || "no requests"}`);
  }

  mark(n) {
    this.at = n;
    const cross = this.plot.querySelector(".cross");
    if (!cross) return;
    cross.setAttribute("visibility", n === null ? "hidden" : "visible");
    this.tip.hidden = n === null;
    if (n === null) return;
    cross.setAttribute("x1", this.x(n));
    cross.setAttribute("x2", this.x(n));
    const shown = this.layers.filter((layer) => layer.values[n]);
    this.tip.replaceChildren(
      h("b", {}, format.time(this.points[n], this.span)),
      ...(shown.length ? [...shown].reverse().map((layer) => h("span", {},
        h("i", { class: `key tone-${layer.tone}` }), layer.name, h("em", {}, this.show(layer.values[n])))) : [h("span", {}, "no requests")]));
    const side = this.x(n) > this.width / 2;
    this.tip.style.left = side ? "auto" : `${this.x(n) + 10}px`;
    this.tip.style.right = side ? `${this.width - this.x(n) + 10}px` : "auto";
  }

  fillTable() {
    if (!this.details.open) return;
    const rows = this.points.map((t, n) => ({ t, n })).filter(({ n }) => this.layers.some((layer) => layer.values[n]));
    this.rows.replaceChildren(table(this.title, [
      { head: "Time", cell: (row) => format.time(row.t, this.span) },
      ...this.layers.map((layer) => ({ head: layer.name, number: true, cell: (row) => this.show(layer.values[row.n]) })),
    ], rows.reverse(), { empty: "No requests in this time." }));
  }
}

// A small line without axes, for a tile. Says nothing: the tile's figure does.
export function spark(values, tone) {
  const width = 120, height = 34;
  const top = Math.max(...values.map((v) => v || 0));
  if (!top) return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  const at = (v, n) => `${((n / (values.length - 1)) * width).toFixed(1)} ${(height - 2 - ((v || 0) / top) * (height - 5)).toFixed(1)}`;
  const line = values.map((v, n) => `${n ? "L" : "M"}${at(v, n)}`).join("");
  return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: `area-${tone}`, d: `${line}L${width} ${height}L0 ${height}z` }),
    s("path", { class: `line line-${tone}`, d: line, "vector-effect": "non-scaling-stroke" }));
}
