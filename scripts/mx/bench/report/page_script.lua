-- What builds the page of a benchmark out of its data: whatever the data holds becomes text and never markup.
return [==[
"use strict";
const D = JSON.parse(document.getElementById("data").textContent), R = D.result || {};
const main = document.querySelector("main"), SVG = document.querySelector("svg").namespaceURI;

function fill(e, attrs, kids) {
  for (const k in attrs) e.setAttribute(k, attrs[k]);
  for (const kid of kids) if (kid !== null && kid !== undefined) e.append(kid);
  return e;
}
const el = (tag, attrs, ...kids) => fill(document.createElement(tag), attrs, kids);
const draw = (tag, attrs, ...kids) => fill(document.createElementNS(SVG, tag), attrs, kids);
const at = (t, path) => path.split(".").reduce((v, k) => v === null || v === undefined ? undefined : v[k], t);
const number = v => typeof v === "number" && isFinite(v);

/* Figures */

const count = n => Math.round(n).toLocaleString("en-US");
function three(n) {
  if (!n) return "0";
  return n.toFixed(Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(Math.abs(+n.toPrecision(3))) + 1e-9))));
}
const rate = n => number(n) ? (n >= 100 ? count(n) : three(n)) + "/s" : "-";
function time(s) {
  if (!number(s)) return "-";
  const a = Math.abs(s) * 1.0005;
  return a >= 100 ? count(s) + " s" : a >= 1 ? three(s) + " s" : a >= 1e-3 ? three(s * 1e3) + " ms" : three(s * 1e6) + " us";
}
function bytes(n) {
  if (!number(n)) return "-";
  const k = n < 1048576 ? 1 : n < 1073741824 ? 2 : 3;
  return three(n / 1024 ** k) + [" ", " KB", " MB", " GB"][k];
}
const percent = x => x >= 1 ? "max" : parseFloat((100 * x).toPrecision(12)) + " %";

/* Charts: drawn anew for each width, so that the writing has the same size on a phone */

function steps(low, high, wanted, unit = 1) {
  const raw = (high - low) / wanted / unit || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = unit * [1, 2, 2.5, 5, 10].map(f => f * power).find(s => s >= raw), list = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) list.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return list;
}
function decades(low, high) {
  const list = [], wide = high / low > 2000;
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
    for (const f of wide ? [1] : [1, 3]) if (f * 10 ** p >= low * 0.999 && f * 10 ** p <= high * 1.001) list.push(f * 10 ** p);
  return list.length > 1 ? list : [low, high];
}
function limits(values, log) {
  let low = Math.min(...values), high = Math.max(...values);
  if (log) return [low / 1.2, high * 1.2];
  if (low > 0) low = 0;
  return high > low ? [low, high * 1.05] : [low, low + 1];
}

// c: { title, lines: [{ name, points: [[x, y], ...] }], fx, fy, log, xticks, unit, xunit: what ticks are multiples of }
function chart(c) {
  c.lines = c.lines.map(l => ({ name: l.name, points: l.points.filter(p => number(p[0]) && number(p[1]) && (!c.log || p[1] > 0)) }))
    .filter(l => l.points.length > 0);
  if (!c.lines.length) return null;
  const svg = draw("svg", { role: "img", "aria-label": c.title }), readout = el("span", { class: "soft" });
  const keys = c.lines.map((l, i) => el("span", { class: "key k" + i, style: "--of: var(--" + "abc"[i % 3] + ")" }, l.name));
  const figure = el("figure", {}, el("figcaption", {}, el("b", {}, c.title), ...keys, readout), svg);
  const xs = c.lines.flatMap(l => l.points.map(p => p[0])), ys = c.lines.flatMap(l => l.points.map(p => p[1]));
  const [y0, y1] = limits(ys, c.log), x0 = Math.min(...xs), x1 = Math.max(...xs) > x0 ? Math.max(...xs) : x0 + 1;
  svg.style.height = "230px";
  const H = 230, left = 62, right = 10, top = 8, bottom = 24;
  let W = 0, cross;
  const X = x => left + (x - x0) / (x1 - x0) * (W - left - right);
  const share = y => c.log ? Math.log(y / y0) / Math.log(y1 / y0) : (y - y0) / (y1 - y0);
  const Y = y => H - bottom - share(y) * (H - top - bottom);

  function redraw(width) {
    if (!width || width === W) return;
    W = width;
    svg.replaceChildren();
    svg.setAttribute("viewBox", "0 0 " + W + " " + H);
    for (const y of c.log ? decades(y0, y1) : steps(y0, y1, 4, c.unit)) svg.append(
      draw("line", { class: "grid", x1: left, x2: W - right, y1: Y(y), y2: Y(y) }),
      draw("text", { x: left - 6, y: Y(y) + 4, "text-anchor": "end" }, c.fy(y)));
    let free = 0, said; // up to where names of ticks stand, and the last of them
    const wanted = Math.max(3, Math.floor(W / 90));
    for (const x of c.xticks ? c.xticks.filter(x => x >= x0 && x <= x1) : steps(x0, x1, wanted, c.xunit)) {
      if (c.fx(x) === said) continue;
      said = c.fx(x);
      svg.append(draw("line", { class: "grid", x1: X(x), x2: X(x), y1: top, y2: H - bottom }));
      const wide = c.fx(x).length * 6 + 8, end = X(x) > W - wide / 2;
      if (X(x) - (end ? wide : wide / 2) < free) continue;
      svg.append(draw("text", { x: X(x), y: H - 7, "text-anchor": end ? "end" : "middle" }, c.fx(x)));
      free = X(x) + (end ? 0 : wide / 2);
    }
    c.lines.forEach((l, i) => {
      const d = l.points.map((p, k) => (k ? "L" : "M") + X(p[0]).toFixed(1) + " " + Y(p[1]).toFixed(1)).join("");
      svg.append(l.points.length > 1 ? draw("path", { class: "curve k" + i, d, style: "stroke: var(--" + "abc"[i % 3] + ")" })
        : draw("circle", { cx: X(l.points[0][0]), cy: Y(l.points[0][1]), r: 3, style: "fill: var(--" + "abc"[i % 3] + ")" }));
    });
    svg.append(cross = draw("line", { class: "cross", y1: top, y2: H - bottom, visibility: "hidden" }));
  }
  function near(l, x) { return l.points.reduce((a, p) => Math.abs(p[0] - x) < Math.abs(a[0] - x) ? p : a); }
  svg.addEventListener("pointermove", e => {
    const x = x0 + ((e.clientX - svg.getBoundingClientRect().left) - left) / (W - left - right) * (x1 - x0);
    const p = near(c.lines[0], x);
    readout.textContent = c.fx(p[0]) + ": " + c.lines.map(l => c.fy(near(l, p[0])[1])).join(" · ");
    cross.setAttribute("x1", X(p[0]));
    cross.setAttribute("x2", X(p[0]));
    cross.setAttribute("visibility", "visible");
  });
  svg.addEventListener("pointerleave", () => { readout.textContent = ""; cross.setAttribute("visibility", "hidden"); });
  new ResizeObserver(() => redraw(Math.round(svg.clientWidth))).observe(svg);
  addEventListener("beforeprint", () => redraw(340));
  addEventListener("afterprint", () => { W = 0; redraw(Math.round(svg.clientWidth)); });
  return figure;
}

function over_time(path) { return (D.series || []).map(s => [s.t, at(s, path)]); }
function nines(list) { return (list || []).map(([p, v]) => [-Math.log10(1 - p), v]); }
const NINES = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
const LAST = Math.max(1, ...(D.series || []).map(s => s.t)), UNIT = LAST < 600 ? 1 : LAST < 10800 ? 60 : 3600;
const second = t => parseFloat((t / UNIT).toFixed(UNIT > 1 ? 2 : 0)) + { 1: " s", 60: " min", 3600: " h" }[UNIT];

function charts() {
  const which = at(D, "percentiles.e2e") ? "e2e" : "confirm", P = D.percentiles || {};
  const name = which === "e2e" ? "End to end" : "Confirm";
  const all = [
    chart({ title: "Messages a second", fx: second, xunit: UNIT, fy: v => v >= 1e4 ? three(v / 1e3) + "k" : count(v),
            lines: [{ name: "published", points: over_time("publish_rate") }, { name: "consumed", points: over_time("consume_rate") }] }),
    chart({ title: name + ", by second", fx: second, xunit: UNIT, fy: time, log: true,
            lines: ["p50", "p99", "max"].map(q => ({ name: q, points: over_time(which + "." + q) })) }),
    chart({ title: "Latency by percentile", fx: x => percent(1 - 10 ** -x), fy: time, log: true, xticks: NINES,
            lines: [["end to end", P.e2e], ["end to end, from the real send", P.e2e_raw], ["confirm", P.confirm],
                    ["confirm, from the real send", P.e2e ? null : P.confirm_raw]].map(([name, l]) => ({ name, points: nines(l) })) }),
    chart({ title: "Memory", fx: second, xunit: UNIT, fy: bytes, unit: 1048576, lines: [{ name: "resident", points: over_time("rss") }] }),
  ].filter(c => c);
  if (all.length) main.append(el("div", { class: "charts" }, ...all));
}

/* Tables */

function table(title, head, rows, kind) {
  if (!rows.length) return;
  const cells = (tag, list) => list.map(c => c instanceof Node && /^T[DH]$/.test(c.tagName) ? c : el(tag, {}, c));
  main.append(el("h2", {}, title), el("div", { class: "scroll " + (kind || "") }, el("table", { class: kind || "" },
    head.length ? el("thead", {}, ...(Array.isArray(head[0]) ? head : [head]).map(h => el("tr", {}, ...cells("th", h)))) : null,
    el("tbody", {}, ...rows.map(r => el("tr", {}, ...cells("td", r)))))));
}
const judged = ok => el("span", { class: ok ? "good" : "bad" }, ok ? "ok" : "crossed");

function latencies() {
  const rows = [["confirm", "publish.confirm"], ["confirm, from the real send", "publish.confirm.raw"], ["end to end", "e2e"],
                ["end to end, from the real send", "e2e.raw"], ["handler", "consume.handler"]]
    .filter(([, path]) => at(R, path + ".max") > 0)
    .map(([name, path]) => [name, ...["p50", "p95", "p99", "p999", "max"].map(q => time(at(R, path + "." + q)))]);
  table("Latency", ["", "p50", "p95", "p99", "p99.9", "max"], rows);
}
function thresholds() {
  table("Thresholds", ["", "asked for", "is", ""], (R.thresholds || []).map(t => [t.name, t.expr, t.text, judged(t.ok)]), "text");
}
function compared() {
  const c = D.compared;
  if (!c) return;
  const word = r => el("span", { class: r.regressed ? "bad" : "" }, r.verdict);
  table("Compared with the base", ["", "base", "this run", "ratio", "95 %", ""], (c.rows || []).map(r =>
    [r.name, r.base_text, r.new_text, r.ratio.toFixed(3), r.low.toFixed(3) + " to " + r.high.toFixed(3), word(r)]));
  for (const text of c.caveats || []) main.append(el("p", { class: "soft" }, "Note: " + text));
}
function figures() {
  const rows = [], add = (name, value, path) => { if (number(at(R, path))) rows.push([name, value(at(R, path))]); };
  add("published", count, "publish.count");
  add("publish errors", count, "publish.errors");
  add("consumed", count, "consume.count");
  add("lost", count, "verify.lost");
  add("duplicated", count, "verify.duplicated");
  add("reordered", count, "verify.reordered");
  add("still in the queues", count, "verify.unread");
  add("processor a message", v => three(v) + " us", "cpu.us_per_message");
  add("processor, user", time, "cpu.user");
  add("processor, system", time, "cpu.sys");
  add("peak resident memory", bytes, "memory.peak_rss");
  add("peak Lua heap", bytes, "memory.lua_peak");
  add("MB per 1,000 messages/s", three, "memory.mb_per_1k_rate");
  add("collector cycles", count, "gc.cycles");
  if (at(R, "gc.pause_max") > 0) {
    add("collector step, average", time, "gc.pause_avg");
    add("collector step, p99", time, "gc.pause_p99");
    add("collector step, longest", time, "gc.pause_max");
  }
  add("generator behind its schedule, p99", time, "generator.lag_p99");
  add("sent late", count, "generator.late");
  add("never sent", count, "generator.unsent");
  table("Figures", [], rows, "narrow");
}
function facts() {
  const text = v => v !== null && typeof v === "object" ? JSON.stringify(v) : String(v);
  const facts = Object.entries(D.system || R.system || {}).sort();
  table("System", [], facts.map(([k, v]) => [k, k === "memory" && number(v) ? bytes(v) : text(v)]), "text narrow");
  if (R.config) main.append(el("h2", {}, "Workload"), el("div", { class: "scroll" }, el("pre", {}, JSON.stringify(R.config, null, 2))));
}

/* A suite: a row a workload, a column a figure and broker */

function suite() {
  const s = D.suite, has = (c, b) => s.rows.some(r => r.by[b] && r.by[b][c.key]);
  const columns = s.columns.flatMap(c => s.brokers.map((_, b) => ({ c, b }))).filter(({ c, b }) => has(c, b));
  const most = s.brokers.map((_, b) => Math.max(...s.rows.map(r => (r.by[b] || {}).number || 0)));
  const cell = (of, c, b) => {
    if (of.failed) return el("td", {}, c.key === "rate" ? el("span", { class: "bad" }, of.failed) : "");
    const td = el("td", {}, of[c.key] || "");
    if (c.key === "rate" && of.mark) td.append(el("br"), el("span", { class: "bad" }, of.mark));
    if (c.key === "rate" && of.number) td.append(
      el("span", { class: "bar k" + b, style: "width:" + (100 * of.number / Math.max(...most)).toFixed(1) + "%" }));
    return td;
  };
  const groups = s.columns.map(c => [c, columns.filter(x => x.c === c).length]).filter(([, n]) => n);
  main.classList.add("wide");
  table("Workloads", [["", ...groups.map(([c, n]) => el("th", { colspan: n }, c.title))],
                      ["workload", ...columns.map(({ b }) => s.brokers[b])]],
    s.rows.map(r => [r.title, ...columns.map(({ c, b }) => cell(r.by[b] || {}, c, b))]), "wide");
  for (const text of s.notes) main.append(el("p", { class: "soft" }, text));
}

document.title = D.title;
const verdict = R.verdict ? el("span", { class: "badge " + (D.good ? "good" : "bad") }, R.verdict) : null;
main.append(el("h1", {}, D.title), el("p", { class: "soft" }, verdict, (verdict ? " " : "") + D.subtitle));
if (D.tiles) main.append(el("div", { class: "tiles" }, ...D.tiles.map(t =>
  el("div", { class: "tile" }, el("span", { class: "soft" }, t.name), el("b", { class: t.bad ? "bad" : "" }, t.value)))));
if (D.suite) suite(); else { charts(); latencies(); thresholds(); compared(); figures(); }
facts();
]==]
