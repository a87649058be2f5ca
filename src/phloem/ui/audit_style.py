"""What the page of an audit adds to the style sheet of a report: the verdict, statuses, the grid of rounds, paper."""

from __future__ import annotations

from phloem.ui.style import STYLE

AUDIT_STYLE = (
    STYLE
    + """
:root { --bad: #b3261e; --doubt: #8a5a00; --good-ground: #e3f3ec; --doubt-ground: #fbf0d9; --bad-ground: #fbe9e7; }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --doubt: #f0c35c; --good-ground: #12332a;
  --doubt-ground: #3a2e12; --bad-ground: #43201d; } }
h2 { break-after: avoid; } h3 { margin-top: 26px; break-after: avoid; } h4 { font-size: .95rem; margin: 20px 0 4px; }
.verdict { border-radius: 10px; padding: 20px 24px 12px; margin: 12px 0 0; border-left: 8px solid; }
.verdict .headline { max-width: none; margin: 0 0 8px; } .verdict p { max-width: 84ch; }
.verdict.valid { background: var(--good-ground); border-color: var(--good); }
.verdict.undecided { background: var(--doubt-ground); border-color: var(--doubt); }
.verdict.invalid { background: var(--bad-ground); border-color: var(--bad); }
.verdict.valid b { color: var(--good); } .verdict.undecided b { color: var(--doubt); } .verdict.invalid b
  { color: var(--bad); }
.good { color: var(--good); } .bad { color: var(--bad); } .doubt { color: var(--doubt); }
.good, .bad, .doubt { font-weight: 600; } .none { color: var(--soft); }
td small, li small { display: block; color: var(--soft); font-size: .88em; }
table.words td, table.words th { text-align: left; white-space: normal; } table.words { min-width: 0; width: 100%; }
table.words th[scope=row] { color: var(--text); font-size: inherit; }
table.words td.number, table.words th.number { text-align: right; }
table.words td.status, table.rounds td:first-child, table.rounds td:last-child { white-space: nowrap; }
table.keys td:first-child { min-width: 11ch; } table.rounds td:nth-child(n+2):nth-child(-n+3) { min-width: 16ch; }
table.rounds td:nth-child(4) { min-width: 26ch; width: 26%; }
.strips { grid-template-columns: repeat(auto-fill, minmax(min(100%, 430px), 1fr)); margin-bottom: 18px; }
.facts dd, td, li, p, h1, .headline { overflow-wrap: break-word; }
.long { overflow-wrap: anywhere; }
table.keys code { font-size: .8em; } code bdi { overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 22px; font-size: .9rem; margin: 6px 0 14px; padding: 0; max-width:
  none; list-style: none; }
.legend li { display: flex; align-items: center; gap: 8px; margin: 0; } .legend svg { width: 15px; height: 15px; }
.cell { stroke: none; } .cell.merged { fill: var(--a); } .cell.left { fill: var(--b); } .cell.absent { fill: none;
  stroke: var(--soft); stroke-width: 1.2; }
.cell.open { fill: var(--d); } .cell.share { fill: var(--d); stroke: none; }
.cell.idle { fill: var(--d); } .slash { stroke: var(--ground); stroke-width: 1.6; } .flag { fill: var(--bad); }
.sign { display: none; } .sign td { height: 3.2em; vertical-align: bottom; color: #59636e; }
@media (max-width: 560px) { .verdict { padding: 14px 14px 6px; } table.checks, table.checks tbody, table.checks tr,
  table.checks th, table.checks td { display: block; border: 0; padding: 0; } table.checks tr { padding: 9px 0;
  border-bottom: 1px solid var(--rule); } .trust th { width: 30%; } table.keys { min-width: 760px; }
  table.rounds { min-width: 940px; } }
@media (min-width: 561px) and (max-width: 1040px) { .facts { grid-template-columns: repeat(3, 1fr); } }
@media print { :root { color-scheme: light; --ground: #fff; --text: #1b1f24; --soft: #59636e; --rule: #c5cad0;
  --panel: #f6f7f9; --a: #0072b2; --b: #c24e00; --d: #a3a9b1; --good: #00664a; --bad: #b3261e; --doubt: #8a5a00;
  --good-ground: #e3f3ec; --doubt-ground: #fbf0d9; --bad-ground: #fbe9e7; }
  @page { margin: 16mm 14mm; } body { font-size: 10.5pt; } main { padding: 0; } h2 { margin-top: 26px; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } table { break-inside: auto; }
  tr, .verdict, .facts, figure, li { break-inside: avoid; } thead { display: table-header-group; }
  .scroll { overflow: visible; } pre { white-space: pre-wrap; overflow-wrap: anywhere; } .sign { display: table;
  margin-top: 30px; } .charts { grid-template-columns: 1fr 1fr; gap: 16px 24px; }
  .facts { grid-template-columns: repeat(3, 1fr); }
  table.keys td:first-child, table.rounds td:nth-child(n) { min-width: 0; }
  table.rounds, table.keys { font-size: 8.6pt; } table.keys code { font-size: .9em; }
  pre code { overflow-wrap: anywhere; }
  details::details-content { content-visibility: visible; height: auto; } details.folded:not([open])::details-content
  { content-visibility: hidden; height: 0; } summary { break-after: avoid; } }
"""
)
