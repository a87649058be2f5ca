"""The style sheet of a report: light and dark, wide and narrow, and on paper.

Colours are from Okabe and Ito's palette (told apart with any kind of colour vision), lightened for dark
pages; lines differ in their dashes, too.
"""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --soft: #59636e; --rule: #d5dae0;
  --panel: #f6f7f9; --a: #0072b2; --b: #c24e00; --c: #00805c; --d: #a3a9b1; --good: #00664a; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --text: #e6e9ed; --soft: #a0a8b2;
  --rule: #343a42;
  --panel: #1c2026; --a: #56b4e9; --b: #f0a35c; --c: #3ccf9f; --d: #6e7681; --good: #3ccf9f; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); line-height: 1.5;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.05rem; margin: 0; font-weight: 600; color: var(--soft); }
h2 { font-size: 1.15rem; margin: 44px 0 10px; }
h3 { font-size: .95rem; margin: 0 0 8px; font-weight: 600; }
p { margin: 6px 0 12px; max-width: 72ch; }
.headline { font-size: clamp(1.45rem, 3.6vw, 2.15rem); line-height: 1.22; font-weight: 650; margin: 10px
  0 12px;
  max-width: 30ch; letter-spacing: -.01em; text-wrap: balance; }
.soft, figcaption { color: var(--soft); } figcaption { font-size: .88rem; margin-top: 4px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(158px, 1fr)); gap: 1px; margin:
  24px 0 0; padding: 0;
  background: var(--rule); border: 1px solid var(--rule); border-radius: 8px; overflow: hidden; }
.facts div { background: var(--panel); padding: 11px 14px; }
.facts dt { color: var(--soft); font-size: .82rem; }
.facts dd { margin: 0; font-size: 1.08rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts dd small { font-weight: 400; font-size: .8rem; color: var(--soft); display: block; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 430px), 1fr)); gap:
  30px 34px; }
figure { margin: 0; min-width: 0; }
svg { display: block; width: 100%; height: auto; font-size: 14px; overflow: visible; }
svg text { fill: var(--text); font-variant-numeric: tabular-nums; }
svg .tick, svg .name { fill: var(--soft); font-size: 13px; }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
.level { stroke: var(--soft); stroke-dasharray: 2 4; } svg .level-label { fill: var(--soft); font-size:
  12.5px; }
.line { fill: none; stroke-width: 2.3; stroke-linejoin: round; }
.line.a { stroke: var(--a); } .line.b { stroke: var(--b); stroke-dasharray: 7 3; }
.line.c { stroke: var(--c); stroke-dasharray: 2 3; }
.dot.a { fill: var(--a); } .dot.b { fill: var(--b); } .dot.c { fill: var(--c); }
svg .label { font-weight: 600; paint-order: stroke; stroke: var(--ground); stroke-width: 4px;
  stroke-linejoin: round; }
svg .label.a { fill: var(--a); } svg .label.b { fill: var(--b); } svg .label.c { fill: var(--c); }
.bar.a { fill: var(--a); } .bar.b { fill: var(--b); } .bar.d { fill: var(--d); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .93rem; min-width: 100%; }
th, td { padding: 6px 12px 6px 0; text-align: right; border-bottom: 1px solid var(--rule);
  vertical-align: top; white-space: nowrap; }
th { white-space: normal; font-weight: 600; color: var(--soft); font-size: .84rem; }
th:first-child, td:first-child { text-align: left; } td.text, th.text { text-align: left; white-space:
  normal; }
table.runs { min-width: 0; } .runs tbody th { text-align: left; }
.runs td, .runs thead th { padding-left: 22px; } .runs td:nth-child(2) { font-weight: 600; }
em { font-style: normal; color: var(--good); font-weight: 600; }
pre { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px;
  overflow-x: auto;
  font: .84rem/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
pre code { overflow-wrap: normal; font-size: 1em; }
details { border-top: 1px solid var(--rule); padding: 10px 0; } details:last-of-type { border-bottom: 1px
  solid var(--rule); }
summary { cursor: pointer; font-weight: 600; }
ul { padding-left: 1.2em; max-width: 76ch; } li { margin: 5px 0; }
@media (max-width: 560px) { main { padding: 18px 14px 40px; } svg, svg .label { font-size: 17px; }
  svg .tick, svg .name, svg .level-label { font-size: 16px; } .facts { grid-template-columns: 1fr 1fr; }
  table { font-size: .86rem; } th, td { padding-right: 10px; }
  .runs { font-size: .82rem; } .runs td, .runs thead th { padding: 6px 4px; } }
@media print { main { max-width: none; } figure, table, .facts { break-inside: avoid; } }
"""
