"""The table at the end of a run, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phloem.ui.ledger import ledger_line
from phloem.ui.outcome import Outcome, cells, headline, measured_text, outcomes


def print_outcome(console: Console, summary: Mapping[str, Any], path: Path) -> None:
    """Prints the headline, a row per run, what is not simulated, and where the report is."""
    rows = outcomes(summary)
    console.print(Text(headline(summary), style="bold"))
    table = _wide(rows)
    fits = console.measure(table, options=console.options.update(width=10_000)).maximum <= console.width
    console.print(table if fits else _narrow(rows))
    console.print(
        Text(
            "bytes: up + down + control, as measured · simulated: the recipe's links · measured: "
            + measured_text(summary),
            style="dim",
        )
    )
    if summary["updates_refused"]:
        console.print(
            Text(f"{summary['updates_refused']} updates were refused; the report names them", style="yellow")
        )
    if len(rows) == 1:
        console.print(
            Text(
                "hint: --compare also runs it uncompressed (fp32, bf16), for the figures beside these",
                style="dim",
            )
        )
    ledger = ledger_line(summary, path)
    if ledger is not None:
        console.print(Text(ledger), soft_wrap=True)
    console.print(Text(f"report: {path / 'report.html'}"), soft_wrap=True)


def _wide(rows: list[Outcome]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = cells(rows)
    for number, (heading, _) in enumerate(columns):
        table.add_column(
            heading,
            justify="right" if number else "left",
            no_wrap=True,
            style="bold" if number == 4 else None,
        )
    for row in zip(*(texts for _, texts in columns), strict=True):
        table.add_row(*row)
    return table


def _narrow(rows: list[Outcome]) -> Table:
    """The same, turned: a column per run."""
    (_, labels), *columns = cells(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for label in labels:
        table.add_column(label, justify="right")
    for heading, texts in columns:
        table.add_row(" ".join(heading.split()), *texts)
    return table
