// Which page is shown, when it is read again, and in which colours.

import { NeedsKey, NotThere, get, setKey } from "./api.js";
import { h, say } from "./dom.js";
import * as format from "./format.js";
import { Nodes } from "./nodes.js";
import { Overview } from "./overview.js";
import { empty } from "./parts.js";
import { Prefixes } from "./prefixes.js";
import { RequestPage } from "./request.js";
import { Requests } from "./requests.js";

const main = document.getElementById("main");
const foot = document.getElementById("foot");
const live = document.getElementById("live");
let page = null;
let timer = 0;
let turn = 0;
let isLive = true;

function make() {
  const [name, id] = location.hash.replace(/^#\//, "").split("/");
  const pages = { "": Overview, requests: id ? RequestPage : Requests, prefixes: Prefixes, nodes: Nodes };
  const tab = pages[name] ? name || "overview" : "overview";
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.dataset.tab === tab) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
  }
  const Page = pages[name] || Overview;
  return new Page(id ? decodeURIComponent(id) : "", () => read(true));
}

function open() {
  page = make();
  document.title = `${page.title} · axolotl-cache`;
  main.replaceChildren(h("p", { class: "wait", role: "status" }, "Reading the figures …"));
  read(true, true);
}

// Reads the page's figures; again after its own number of seconds, while someone looks.
async function read(now = false, isNew = false) {
  clearTimeout(timer);
  const mine = (turn += 1);
  const current = page;
  if (!now && (document.hidden || !isLive)) return again(current);
  try {
    const data = await get(current.path());
    if (mine !== turn || current !== page) return undefined;
    if (main.firstChild !== current.element) main.replaceChildren(current.element);
    const said = keeping(() => current.update(data));
    foot.textContent = `axolotl-cache ${data.version} · ${data.model || "no model named"} · counting since ${format.dateTime(data.started_at)} · read ${format.timeExact(data.now)}`;
    online(true);
    if (isNew && said) say(said);
  } catch (error) {
    if (mine !== turn || current !== page) return undefined;
    if (error instanceof NeedsKey) return askForKey(error.message);
    if (error instanceof NotThere) return main.replaceChildren(empty("Not here any more", "Only the last 1,000 requests are kept, in memory, since the server started.", h("a", { href: "#/requests" }, "To the last requests")));
    online(false);
    if (main.firstChild !== current.element) main.replaceChildren(empty("The server can't be reached", "It is asked again in a few seconds."));
  }
  return again(current);
}

function again(current) {
  clearTimeout(timer);
  if (current.seconds) timer = setTimeout(() => read(), current.seconds * 1000);
}

// What a reader has open, focused or scrolled stays so when the figures are drawn anew.
function keeping(draw) {
  const focused = document.activeElement;
  const place = focused && main.contains(focused) ? pathTo(focused) : null;
  const scrolled = [...main.querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  const result = draw();
  [...main.querySelectorAll(".scroll")].forEach((box, n) => { if (scrolled[n]) box.scrollLeft = scrolled[n]; });
  if (place && !main.contains(document.activeElement)) from(place)?.focus({ preventScroll: true });
  return result;
}

function pathTo(element) {
  const path = [];
  for (let at = element; at !== main; at = at.parentElement) path.unshift([...at.parentElement.children].indexOf(at));
  return path;
}

const from = (path) => path.reduce((at, n) => at?.children[n], main);

function online(is) {
  live.classList.toggle("lost", !is);
  document.getElementById("live-text").textContent = is ? (isLive ? "Live" : "Paused") : "No contact";
}

function askForKey(message) {
  const field = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-note" });
  main.replaceChildren(h("form", { class: "card key-form", onsubmit: (event) => { event.preventDefault(); setKey(field.value.trim()); open(); } },
    h("h1", {}, "An operator's key, please"),
    message ? h("p", { class: "failed-line", role: "alert" }, message) : null,
    h("label", { for: "key" }, "Key"), field,
    h("p", { class: "muted", id: "key-note" }, "It is kept until this tab is closed, and sent to this server alone."),
    h("button", { type: "submit", class: "primary" }, "Open the dashboard")));
  field.focus();
}

live.addEventListener("click", () => {
  isLive = !isLive;
  live.setAttribute("aria-pressed", String(isLive));
  live.classList.toggle("paused", !isLive);
  online(true);
  if (isLive) read(true);
});

const THEMES = ["", "light", "dark"];
const themeButton = document.getElementById("theme");
function showTheme() {
  const chosen = document.documentElement.dataset.theme || "";
  themeButton.setAttribute("aria-label", `Colours: ${chosen || "as the system"}`);
  themeButton.title = `Colours: ${chosen || "as the system"}`;
}
themeButton.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme || "") + 1) % THEMES.length];
  if (next) document.documentElement.dataset.theme = next; else delete document.documentElement.dataset.theme;
  try { next ? localStorage.setItem("axolotl-theme", next) : localStorage.removeItem("axolotl-theme"); } catch { /* for this page alone */ }
  showTheme();
  say(`Colours: ${next || "as the system"}`);
});

addEventListener("hashchange", () => { open(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && isLive) read(true); });
showTheme();
open();
