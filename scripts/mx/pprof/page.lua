-- The page of mxrun profile flame. @TITLE@ and @DATA@ are put in; it loads nothing, and shows names as text only.
return [==[<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@</title>
<style>
:root { color-scheme: light; --back: #fff; --text: #1b1f24; --soft: #667; --line: #d5d9e0; --bar: #f4f5f8;
  --s: 62%; --l: 78%; --hit: #e0359a; }
:root.dark { color-scheme: dark; --back: #14171c; --text: #e4e7ec; --soft: #9aa3b2; --line: #333a45; --bar: #1d2129;
  --s: 34%; --l: 34%; }
* { box-sizing: border-box; }
html { height: 100%; -webkit-text-size-adjust: 100%; }
body { margin: 0; height: 100%; display: flex; flex-direction: column; background: var(--back); color: var(--text);
  font: 14px/1.4 system-ui, sans-serif; }
header { display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; padding: 8px 10px; background: var(--bar);
  border-bottom: 1px solid var(--line); }
h1 { font-size: 15px; margin: 0 auto 0 0; overflow-wrap: anywhere; }
button, select, input { font: inherit; color: inherit; background: var(--back); border: 1px solid var(--line);
  border-radius: 5px; padding: 3px 8px; }
button { cursor: pointer; }
#search { width: 15em; min-width: 0; }
#search.wrong { border-color: #d33; }
#matched { color: var(--soft); min-width: 9em; font-variant-numeric: tabular-nums; }
main { flex: 1; min-height: 0; display: flex; }
#graph { flex: 1 1 65%; min-width: 0; overflow: auto; padding: 6px; }
#frames { position: relative; }
.f { position: absolute; height: 19px; overflow: hidden; white-space: nowrap; text-overflow: ellipsis;
  padding: 0 3px; border: 0 solid var(--back); border-width: 0 1px 1px 0; border-radius: 3px; font: 12px/18px ui-monospace, monospace;
  cursor: pointer; background: hsl(var(--h) var(--s) var(--l)); }
.f.above { opacity: .55; }
.f.hit { background: var(--hit); color: #fff; }
.f:hover { outline: 2px solid var(--text); outline-offset: -2px; }
#side { flex: 1 1 35%; min-width: 0; overflow: auto; border-left: 1px solid var(--line); }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th { position: sticky; top: 0; background: var(--bar); text-align: right; padding: 0; }
th:last-child, td:last-child { text-align: left; width: 100%; }
th button { border: 0; background: none; width: 100%; text-align: inherit; font-weight: 600; white-space: nowrap; }
th[aria-sort=descending] button::after { content: " \25be"; }
th[aria-sort=ascending] button::after { content: " \25b4"; }
td { padding: 2px 8px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; vertical-align: top; }
td:last-child { white-space: normal; overflow-wrap: anywhere; }
tbody tr { cursor: pointer; }
tbody tr:hover { background: var(--bar); }
td small { color: var(--soft); }
footer { min-height: 2.9em; padding: 4px 10px; background: var(--bar); border-top: 1px solid var(--line); font-size: 13px;
  overflow-wrap: anywhere; }
footer b { font-family: ui-monospace, monospace; }
@media (max-width: 800px) {
  h1 { width: 100%; }
  #search { flex: 1 1 8em; }
  #matched { min-width: 0; }
  main { flex-direction: column; }
  #graph { flex: 1 1 60%; }
  #side { flex: 1 1 40%; border-left: 0; border-top: 1px solid var(--line); }
  .f { height: 25px; line-height: 24px; }
}
</style>
<header>
  <h1></h1>
  <select id="type" aria-label="sample type"></select>
  <input id="search" type="search" placeholder="search (regex)" aria-label="search"
    autocomplete="off" autocapitalize="off" spellcheck="false">
  <output id="matched"></output>
  <button id="flip" type="button"></button>
  <button id="reset" type="button">Reset</button>
  <button id="theme" type="button">Theme</button>
</header>
<main>
  <div id="graph"><div id="frames"></div></div>
  <div id="side"><table>
    <thead><tr>
      <th><button type="button" data-key="flat">flat</button></th>
      <th><button type="button" data-key="cum">cum</button></th>
      <th><button type="button" data-key="name">function</button></th>
    </tr></thead>
    <tbody></tbody></table></div>
</main>
<footer id="info"></footer>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id), make = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
const ROWS = 300;
let seen = "";          // what the graph was scrolled for
const state = { type: data.shown, zoom: 0, up: false, search: "", key: "flat", down: true };

// Nodes in the order of the file: parents before children. Node 0 is the root of all.
const width = data.types.length, nodes = [{ id: 0, depth: 0, frame: -1, flat: Array(width).fill(0), kids: [] }];
for (let at = 0, last = [nodes[0]]; at < data.nodes.length; at += 2 + width) {
  const depth = data.nodes[at] + 1, parent = last[depth - 1];
  const n = { id: nodes.length, depth, parent, frame: data.nodes[at + 1], flat: data.nodes.slice(at + 2, at + 2 + width), kids: [] };
  parent.kids.push(n);
  nodes.push(n);
  last[depth] = n;
}
for (const n of nodes) n.total = n.flat.slice();
for (let i = nodes.length - 1; i > 0; i--) nodes[i].total.forEach((v, t) => { nodes[i].parent.total[t] += v; });

const name = n => n.frame < 0 ? "all" : data.frames[n.frame][0];
const placeOf = f => f[1] + (f[2] > 0 ? ":" + f[2] : "");
const place = n => n.frame < 0 ? "" : placeOf(data.frames[n.frame]);
const percent = (v, of) => (of ? 100 * v / of : 0).toFixed(2) + "%";

const SCALES = {
  bytes: [["B", 1], ["kB", 1024], ["MB", 1048576], ["GB", 1073741824], ["TB", 1099511627776]],
  nanoseconds: [["ns", 1], ["us", 1e3], ["ms", 1e6], ["s", 1e9]],
  microseconds: [["us", 1], ["ms", 1e3], ["s", 1e6]],
  milliseconds: [["ms", 1], ["s", 1e3]],
};
function amount(v) {
  const unit = data.types[state.type][1], scale = SCALES[unit];
  if (!scale) return v + (unit === "count" ? "" : " " + unit);
  if (!v) return "0";
  const [suffix, size] = scale.filter(s => v >= s[1]).pop() || scale[0];
  return +(v / size).toFixed(2) + suffix;
}

function hue(text) {
  let h = 0;
  for (let i = 0; i < text.length; i++) h = (h * 31 + text.charCodeAt(i)) >>> 0;
  return h % 360;
}
const hues = data.frames.map(f => (hue(f[1]) + hue(f[0]) % 30) % 360);

const literal = text => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
function pattern() {
  $("search").classList.remove("wrong");
  if (!state.search) return null;
  try { return new RegExp(state.search, "i"); } catch (e) { $("search").classList.add("wrong"); }
  return new RegExp(literal(state.search), "i");
}
// Which frames the search finds, by their number.
function found() {
  const p = pattern();
  return p ? data.frames.map(f => p.test(f[0]) || p.test(placeOf(f))) : null;
}

function subtree(from) {
  let end = from.id + 1;
  while (end < nodes.length && nodes[end].depth > from.depth) end++;
  return nodes.slice(from.id, end);
}

function show(n) {
  const info = $("info"), t = state.type, zoom = nodes[state.zoom];
  info.replaceChildren(make("b", name(n)), " " + place(n), make("br", ""),
    amount(n.total[t]) + ", " + percent(n.total[t], nodes[0].total[t]) + " of all" +
    (zoom.id ? ", " + percent(n.total[t], zoom.total[t]) + " of what is shown" : "") + "; itself " + amount(n.flat[t]));
}

function drawFrames(hits) {
  const t = state.type, zoom = nodes[state.zoom], box = $("frames"), room = box.clientWidth || 800, out = [], placed = [];
  const high = matchMedia("(max-width: 800px)").matches ? 26 : 20;
  const add = (n, left, share, above) => { placed.push([n, left, share, above]); };
  for (let n = zoom.parent; n; n = n.parent) add(n, 0, 1, true);
  const open = [[zoom, 0, 1]];
  while (open.length) {
    const [n, left, share] = open.pop();
    add(n, left, share, false);
    let at = left;
    for (const kid of n.kids) {
      const part = n.total[t] ? share * kid.total[t] / n.total[t] : 0;
      if (part * room >= 1) open.push([kid, at, part]);
      at += part;
    }
  }
  const deepest = placed.reduce((d, p) => Math.max(d, p[0].depth), 0);
  for (const [n, left, share, above] of placed) {
    const d = make("div", share * room > 24 ? name(n) : "");
    d.className = "f" + (above ? " above" : "") + (hits && n.frame >= 0 && hits[n.frame] ? " hit" : "");
    d.dataset.node = n.id;
    d.style.left = left * 100 + "%";
    d.style.width = share * 100 + "%";
    d.style.top = (state.up ? deepest - n.depth : n.depth) * high + "px";
    d.style.setProperty("--h", n.frame < 0 ? 220 : hues[n.frame]);
    out.push(d);
  }
  box.style.height = (deepest + 1) * high + "px";
  box.replaceChildren(...out);
  const view = [state.zoom, state.up].join();
  if (view !== seen) $("graph").scrollTop = state.up ? box.scrollHeight : 0;
  seen = view;
}

// The share of what is shown that lies under a frame that was found.
function matchedShare(hits) {
  const t = state.type, zoom = nodes[state.zoom];
  let sum = 0, count = 0, below = Infinity;
  for (const n of subtree(zoom)) {
    if (n.depth <= below) below = Infinity;
    if (n.frame < 0 || !hits[n.frame]) continue;
    count++;
    if (below === Infinity) { below = n.depth; sum += n.total[t]; }
  }
  return count ? "matched " + percent(sum, zoom.total[t]) : "no match";
}

function drawTable(hits) {
  const t = state.type, zoom = nodes[state.zoom], rows = new Map(), path = [];
  for (const n of subtree(zoom)) {
    path.length = n.depth;
    path[n.depth] = n.frame;
    if (n.frame < 0) continue;
    let r = rows.get(n.frame);
    if (!r) rows.set(n.frame, r = { frame: n.frame, name: name(n), flat: 0, cum: 0 });
    r.flat += n.flat[t];
    if (path.indexOf(n.frame, zoom.depth) === n.depth) r.cum += n.total[t];
  }
  const sign = state.down ? -1 : 1, key = state.key, compare = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  const list = [...rows.values()].filter(r => (!hits || hits[r.frame]) && r.cum > 0)
    .sort((a, b) => sign * compare(a[key], b[key]) || compare(a.name, b.name));
  const body = list.slice(0, ROWS).map(r => {
    const tr = make("tr", ""), last = make("td", r.name + " ");
    last.append(make("small", placeOf(data.frames[r.frame])));
    for (const k of ["flat", "cum"]) {
      const td = make("td", amount(r[k]) + " ");
      td.append(make("small", percent(r[k], zoom.total[t])));
      tr.append(td);
    }
    tr.append(last);
    tr.onclick = () => set({ search: "^" + literal(r.name) + "$" });
    return tr;
  });
  if (list.length > ROWS) body.push(make("tr", list.length - ROWS + " more"));
  document.querySelector("tbody").replaceChildren(...body);
  for (const b of document.querySelectorAll("th button"))
    b.parentNode.setAttribute("aria-sort", b.dataset.key !== key ? "none" : state.down ? "descending" : "ascending");
}

function draw() {
  const hits = found();
  $("search").value = state.search;
  $("type").value = state.type;
  $("flip").textContent = state.up ? "Flame \u2191" : "Icicle \u2193";
  $("matched").textContent = hits ? matchedShare(hits) : "";
  document.body.dataset.zoom = name(nodes[state.zoom]);
  drawFrames(hits);
  drawTable(hits);
  show(nodes[state.zoom]);
}

// #search=…&zoom=…&type=…&up=1&theme=dark; zoom is the number of a node, or a name: the largest of it.
function read() {
  const q = new URLSearchParams(location.hash.slice(1)), zoom = q.get("zoom") || "0";
  const type = data.types.findIndex(t => t[0] === q.get("type"));
  state.search = q.get("search") || "";
  state.up = q.get("up") === "1";
  state.type = type < 0 ? data.shown : type;
  const named = nodes.filter(n => name(n) === zoom).sort((a, b) => b.total[state.type] - a.total[state.type])[0];
  state.zoom = named ? named.id : /^\d+$/.test(zoom) && nodes[zoom] ? +zoom : 0;
  const dark = q.has("theme") ? q.get("theme") === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.classList.toggle("dark", dark);
}
function set(change) {
  Object.assign(state, change);
  const q = new URLSearchParams(location.hash.slice(1));
  const put = (k, v) => { if (v) q.set(k, v); else q.delete(k); };
  put("search", state.search);
  put("zoom", state.zoom);
  put("up", state.up ? "1" : "");
  put("type", state.type === data.shown ? "" : data.types[state.type][0]);
  try { history.replaceState(null, "", "#" + q); } catch (e) { /* it works without */ }
  draw();
}

document.querySelector("h1").textContent = data.title;
if (data.lines) document.querySelector("[data-key=name]").textContent = "line";
data.types.forEach((t, i) => $("type").append(Object.assign(make("option", t[0]), { value: i })));
const nodeAt = e => { const d = e.target.closest(".f"); return d && nodes[d.dataset.node]; };
$("frames").onclick = e => { const n = nodeAt(e); if (n) set({ zoom: n.id }); };
$("frames").onmouseover = e => { const n = nodeAt(e); if (n) show(n); };
$("frames").onmouseleave = () => show(nodes[state.zoom]);
$("search").oninput = e => set({ search: e.target.value });
$("type").onchange = e => set({ type: +e.target.value });
$("flip").onclick = () => set({ up: !state.up });
$("reset").onclick = () => set({ zoom: 0, search: "" });
$("theme").onclick = () => document.documentElement.classList.toggle("dark");
document.querySelector("thead").onclick = e => {
  const key = e.target.dataset.key;
  if (key) { state.down = key === state.key ? !state.down : key !== "name"; state.key = key; draw(); }
};
document.onkeydown = e => {
  if (e.key === "Escape") set(state.zoom ? { zoom: 0 } : { search: "" });
  if (e.key === "/" && e.target !== $("search")) { e.preventDefault(); $("search").focus(); }
};
window.onresize = draw;
window.onhashchange = () => { read(); draw(); };
read();
draw();
</script>
]==]
