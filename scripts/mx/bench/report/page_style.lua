-- How the page of a benchmark looks: light or dark as the reader's system, black on white on paper, one column on a phone.
return [[
:root { color-scheme: light dark; --paper: #fcfcfb; --card: #ffffff; --ink: #1b1f24; --soft: #5c6670; --line: #dfe3e6;
  --a: #1f6fd1; --b: #c2570c; --c: #2b8a57; --bad: #b3261e; --good: #20734a; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --card: #1c2024; --ink: #e8eaec; --soft: #9aa4ad; --line: #333a41;
    --a: #6aa9f7; --b: #f0a05a; --c: #6cc795; --bad: #ff8a80; --good: #7dd3a5; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 20px 16px 48px; }
h1 { font-size: 24px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 16px; margin: 28px 0 10px; }
p { margin: 4px 0; }
.soft, th, .unit { color: var(--soft); font-weight: normal; }
.badge { display: inline-block; border: 1px solid currentColor; border-radius: 4px; padding: 0 8px; font-size: 14px; }
.good { color: var(--good); } .bad { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 18px 0; }
.tile, figure, .scroll { background: var(--card); border: 1px solid var(--line); border-radius: 6px; }
.tile { padding: 10px 12px; } .tile b { display: block; font-size: 21px; font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 14px; }
figure { margin: 0; padding: 10px 12px; min-width: 0; }
figcaption { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; margin-bottom: 4px; }
figcaption b { flex-basis: 100%; font-weight: 600; font-size: 14px; }
.key::before { content: ""; display: inline-block; width: 16px; border-top: 3px solid var(--of); margin-right: 5px; vertical-align: 3px; }
.key.k1::before { border-top-style: dashed; } .key.k2::before { border-top-style: dotted; }
svg { display: block; width: 100%; touch-action: pan-y; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--line); } .cross { stroke: var(--soft); stroke-dasharray: 2 3; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.curve.k1 { stroke-dasharray: 6 3; } .curve.k2 { stroke-dasharray: 2 3; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .text td, .text th { text-align: left; } .text td { white-space: normal; overflow-wrap: anywhere; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card); }
.narrow { max-width: 560px; }
tr:last-child td { border-bottom: 0; } thead th { vertical-align: bottom; }
.bar { display: block; height: 4px; border-radius: 2px; background: var(--a); margin: 3px 0 0 auto; }
.bar.k1 { background: var(--b); } .bar.k2 { background: var(--c); }
main.wide { max-width: 1400px; }
.wide td, .wide th { font-size: 13px; padding: 5px 6px; } th[colspan] { color: var(--ink); }
pre { margin: 0; padding: 10px 12px; font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 480px) { main { padding: 14px 10px 32px; } h1 { font-size: 20px; } .tiles { grid-template-columns: 1fr 1fr; }
  .tile b { font-size: 18px; } th, td { padding: 5px 7px; }
  td:first-child { white-space: normal; min-width: 96px; } }
@media print {
  :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; }
  main { max-width: none; padding: 0; } .charts { grid-template-columns: 1fr 1fr; }
  figure, .tile, tr { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  th, td { padding: 3px 6px; white-space: normal; } body { font-size: 11px; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
]]
