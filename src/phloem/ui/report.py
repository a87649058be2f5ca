"""`report.html`: one self-contained page about a run, without scripts and without anything from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from phloem.errors import StateError
from phloem.job.directory import RunDirectory, reading
from phloem.job.record import RoundRecord, read_summary
from phloem.recipe import Recipe
from phloem.ui.charts import error_chart, metric_charts, rate_chart, site_chart
from phloem.ui.choices import choices
from phloem.ui.decisions import Decided, read_decisions
from phloem.ui.document import document
from phloem.ui.figures import unbroken
from phloem.ui.ledger import ledger_section
from phloem.ui.markup import Markup, element
from phloem.ui.outcome import LABELS, headline
from phloem.ui.sections import comparison, facts, meaning, provenance, refusals, reproduction, site_table
from phloem.ui.style import STYLE


def write_report(root: Path) -> None:
    """Writes `report.html` of a finished run (and of the baselines in it), whole or not at all.

    Raises:
        ConfigError: there is no run. StateError: it is not finished, or another version's. StoreError: disk.
    """
    directory, recipe, _ = RunDirectory.open(root)
    summary = read_summary(root)
    runs = {"this": directory.records()}
    for name in summary.get("compare") or {}:
        if name in LABELS:
            runs[name] = RunDirectory.open(root / "compare" / name)[0].records()
    if not runs["this"]:
        raise StateError(
            f"{root}/rounds.jsonl has no rounds", hint="restore the file, or run the recipe again"
        )
    with reading(f"the record of the run in {root}"):
        decided = read_decisions(directory.decisions(), f"{root}/decisions.jsonl")
        text = page(recipe, summary, runs, decided)
    directory.write("report.html", text.encode())


def page(
    recipe: Recipe,
    summary: Mapping[str, Any],
    runs: Mapping[str, Sequence[RoundRecord]],
    decided: Sequence[Decided] = (),
) -> str:
    """The page's text."""
    return document(f"{recipe.name} · Phloem run", STYLE, *_sections(recipe, summary, runs, decided))


def _sections(
    recipe: Recipe,
    summary: Mapping[str, Any],
    runs: Mapping[str, Sequence[RoundRecord]],
    decided: Sequence[Decided],
) -> list[Markup | None]:
    records = runs["this"]
    figures = [_figure(heading, chart) for heading, chart in metric_charts(summary, runs)]
    figures.append(_figure("Bits per parameter", rate_chart(records), "Of the frames alone, control apart."))
    error = error_chart(records)
    if error is not None:
        note = (
            "What a frame leaves out is not lost: it is owed, and goes into the next ones (error feedback)."
        )
        figures.append(_figure("Left out of a frame to the sites", error, note))
    return [
        element("h1", f"{recipe.name} · built with Phloem"),
        element("p", unbroken(headline(summary)), class_="headline"),
        element("p", recipe.description, class_="soft") if recipe.description else None,
        facts(recipe, summary, records),
        comparison(summary),
        element("h2", "How it went"),
        element("div", *figures, class_="charts"),
        element("h2", "Sites"),
        element(
            "div",
            _figure("Bytes by site", site_chart(summary)),
            site_table(summary, records),
            class_="charts",
        ),
        choices(decided),
        refusals(records),
        element("h2", "What these numbers are"),
        meaning(recipe, summary),
        ledger_section(summary),
        element("h2", "Make it again"),
        reproduction(recipe, summary),
        provenance(summary),
    ]


def _figure(heading: str, chart: Markup, note: str | None = None) -> Markup:
    return element(
        "figure",
        element("h3", heading[:1].upper() + heading[1:]),
        chart,
        element("figcaption", note) if note else None,
    )
